"""Which registration entries to create, change and remove: rules only.

What is declared is all there is: an entry that nobody declared is somebody's identity by mistake,
or worse. The one exception are the entries that SPIRE makes by itself, one a join token, which
give a node the host's name; they stay as long as the node may still use them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from flashpods.config_identity import Spire


@dataclass(frozen=True, slots=True)
class Declared:
    """An entry as it is to be."""

    spiffe_id: str
    parent_id: str
    selectors: frozenset[str]
    x509_svid_ttl: int = 0
    jwt_svid_ttl: int = 0

    def as_data(self, entry_id: str = "") -> dict[str, Any]:
        """Return it as ``entry create -data`` and ``entry update -data`` read it."""
        pairs = (selector.split(":", 1) for selector in sorted(self.selectors))
        return {
            "entry_id": entry_id,
            "spiffe_id": self.spiffe_id,
            "parent_id": self.parent_id,
            "selectors": [{"type": kind, "value": value} for kind, value in pairs],
            "x509_svid_ttl": self.x509_svid_ttl,
            "jwt_svid_ttl": self.jwt_svid_ttl,
        }


@dataclass(slots=True)
class Plan:
    """What to do, in this order: remove, update, create."""

    remove: list[str] = field(default_factory=list)  # entry ids
    update: list[tuple[str, Declared]] = field(default_factory=list)
    create: list[Declared] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Whether everything is as declared."""
        return not (self.remove or self.update or self.create)


def declared(settings: Spire) -> list[Declared]:
    """Return the entries of the configuration."""
    parent = settings.spiffe_id(settings.host)
    return [
        Declared(
            spiffe_id=settings.spiffe_id(path),
            parent_id=parent,
            selectors=frozenset(entry.selectors),
            x509_svid_ttl=entry.x509_svid_ttl,
            jwt_svid_ttl=entry.jwt_svid_ttl,
        )
        for path, entry in settings.entries.items()
    ]


def spiffe_id(value: dict[str, Any]) -> str:
    """Return the text of a SPIFFE ID in the server's JSON."""
    return f"spiffe://{value['trust_domain']}{value['path']}"


def plan(
    wanted: Iterable[Declared],
    found: Iterable[dict[str, Any]],
    *,
    host: str,
    agents: frozenset[str],
    now: float,
    token_seconds: int,
) -> Plan:
    """Compare what is declared with what the server has.

    Args:
        wanted: the configuration.
        found: ``entry show``.
        host: the SPIFFE ID that join tokens give to a node.
        agents: the SPIFFE IDs of the nodes that are attested and may still renew.
        now: seconds since the epoch.
        token_seconds: how long a join token may wait for its node.
    """
    left = {entry.spiffe_id: entry for entry in wanted}
    result = Plan()
    for entry in found:
        name = spiffe_id(entry["spiffe_id"])
        fresh = now - int(entry.get("created_at", 0)) <= token_seconds
        if name == host and _of_a_node(entry):
            if not (fresh or spiffe_id(entry["parent_id"]) in agents):
                result.remove.append(entry["id"])
            continue
        target = left.pop(name, None)
        if target is None:
            result.remove.append(entry["id"])  # not declared, or a second one
        elif _differs(entry, target):
            result.update.append((entry["id"], target))
    result.create = list(left.values())
    return result


def _of_a_node(entry: dict[str, Any]) -> bool:
    """Whether the entry is one that a join token made: its parent is the node itself."""
    parent = spiffe_id(entry["parent_id"])
    own = [{"type": "spiffe_id", "value": parent}]
    return "/spire/agent/join_token/" in parent and entry["selectors"] == own


def _differs(entry: dict[str, Any], target: Declared) -> bool:
    selectors = frozenset(f"{s['type']}:{s['value']}" for s in entry["selectors"])
    same = (
        spiffe_id(entry["parent_id"]) == target.parent_id
        and selectors == target.selectors
        and int(entry.get("x509_svid_ttl", 0)) == target.x509_svid_ttl
        and int(entry.get("jwt_svid_ttl", 0)) == target.jwt_svid_ttl
    )
    # What we never declare must not be there: it widens what the bearer may do.
    wider = entry.get("admin") or entry.get("downstream") or entry.get("store_svid")
    extra = entry.get("federates_with") or entry.get("dns_names") or entry.get("hint")
    return not same or bool(wider or extra or int(entry.get("expires_at", 0)))
