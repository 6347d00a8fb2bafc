"""Which registration entries are created, changed and removed."""

from __future__ import annotations

from typing import Any

import pytest

from flashpods.config_identity import Entry, Spire
from flashpods.spire.registration import Declared, Plan, declared, plan

TD = "flashpods.local"
HOST = f"spiffe://{TD}/host"
NOW = 1_800_000_000.0


def split(text: str) -> dict[str, str]:
    domain, _, path = text.removeprefix("spiffe://").partition("/")
    return {"trust_domain": domain, "path": f"/{path}"}


def found(name: str, *selectors: str, **fields: Any) -> dict[str, Any]:
    """An entry as the server shows it."""
    pairs = [selector.split(":", 1) for selector in selectors]
    base = {
        "id": f"id-{name}",
        "spiffe_id": split(f"spiffe://{TD}/{name}"),
        "parent_id": split(HOST),
        "selectors": [{"type": kind, "value": value} for kind, value in pairs],
        "x509_svid_ttl": 0,
        "jwt_svid_ttl": 0,
        "expires_at": "0",
        "created_at": str(int(NOW) - 3600),
        "federates_with": [],
        "dns_names": [],
        "hint": "",
        "admin": False,
        "downstream": False,
        "store_svid": False,
    }
    return {**base, **fields}


WORKER = found("worker", "docker:label:flashpods-job-type:worker")
AGENT = found("agent", "docker:label:flashpods-job-type:agent")


def compare(
    *entries: dict[str, Any], settings: Spire | None = None, agents: frozenset[str] = frozenset()
) -> Plan:
    wanted = declared(settings or Spire())
    return plan(wanted, entries, host=HOST, agents=agents, now=NOW, token_seconds=60)


def test_the_contracts_entries() -> None:
    assert declared(Spire()) == [
        Declared(
            f"spiffe://{TD}/{kind}", HOST, frozenset({f"docker:label:flashpods-job-type:{kind}"})
        )
        for kind in ("worker", "agent")
    ]


def test_an_empty_server_gets_all() -> None:
    todo = compare()
    assert [entry.spiffe_id for entry in todo.create] == [f"{HOST[:-4]}worker", f"{HOST[:-4]}agent"]
    assert (todo.update, todo.remove) == ([], [])


def test_a_second_run_does_nothing() -> None:
    assert compare(WORKER, AGENT).empty


def test_an_undeclared_entry_goes_and_so_does_a_second_one() -> None:
    intruder = found("root", "unix:uid:0")
    twin = {**WORKER, "id": "twin"}
    assert compare(WORKER, intruder, AGENT, twin).remove == ["id-root", "twin"]


@pytest.mark.parametrize(
    "change",
    [
        {"selectors": [{"type": "unix", "value": "uid:1000"}]},
        {"selectors": []},
        {"parent_id": split(f"spiffe://{TD}/elsewhere")},
        {"x509_svid_ttl": 60},
        {"jwt_svid_ttl": 60},
        {"admin": True},
        {"downstream": True},
        {"store_svid": True},
        {"federates_with": ["evil.example"]},
        {"dns_names": ["api.flashpods.local"]},
        {"hint": "h"},
        {"expires_at": "1900000000"},
    ],
)
def test_a_changed_entry_is_put_right(change: dict[str, Any]) -> None:
    todo = compare({**WORKER, **change}, AGENT)
    assert [(entry_id, entry.spiffe_id) for entry_id, entry in todo.update] == [
        ("id-worker", f"spiffe://{TD}/worker")
    ]
    assert (todo.create, todo.remove) == ([], [])


def test_an_update_says_all() -> None:
    (entry,) = declared(Spire(entries={"w": Entry(selectors=("unix:uid:1", "docker:env:a:b=c"))}))
    assert entry.as_data("id") == {
        "entry_id": "id",
        "spiffe_id": f"spiffe://{TD}/w",
        "parent_id": HOST,
        "selectors": [
            {"type": "docker", "value": "env:a:b=c"},
            {"type": "unix", "value": "uid:1"},
        ],
        "x509_svid_ttl": 0,
        "jwt_svid_ttl": 0,
    }


def alias(token: str, *, age: float) -> dict[str, Any]:
    """The entry that a join token made."""
    node = f"spiffe://{TD}/spire/agent/join_token/{token}"
    return found(
        "host",
        f"spiffe_id:{node}",
        id=f"id-{token}",
        parent_id=split(node),
        created_at=str(int(NOW - age)),
    )


def test_a_nodes_own_entry_stays_while_it_may_renew() -> None:
    alive = frozenset({f"spiffe://{TD}/spire/agent/join_token/alive"})
    entries = [WORKER, AGENT, alias("alive", age=9000), alias("dead", age=9000)]
    assert compare(*entries, agents=alive).remove == ["id-dead"]


def test_a_token_that_waits_for_its_node_keeps_its_entry() -> None:
    assert compare(WORKER, AGENT, alias("new", age=30)).empty


def test_an_entry_that_only_looks_like_a_nodes_goes() -> None:
    forged = {**alias("new", age=0), "selectors": [{"type": "unix", "value": "uid:1000"}]}
    elsewhere = {**alias("x", age=0), "parent_id": split(HOST)}
    assert compare(WORKER, AGENT, forged, elsewhere).remove == ["id-new", "id-x"]
