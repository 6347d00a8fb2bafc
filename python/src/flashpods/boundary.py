"""The trust boundary's rule set: typed parameters in, the text for ``nft -f`` out.

The rules themselves are one template, ``modules/network/ruleset.nft``. What is done to it is plain
replacement of ``@name@``, so that Nix's ``replaceStrings`` does the same; all that can be wrong is
found here, in the parameters, before anything is loaded.

    flashpods-boundary TEMPLATE PARAMETERS.json | nft -f -
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

__all__ = [
    "Boundary",
    "RulesetError",
    "Subordinates",
    "main",
    "program",
    "render",
    "substitutions",
]

PLACEHOLDER: Final = re.compile(r"@([a-z0-9_]+)@")
DNS_PORTS: Final = (53, 853)
EX_CONFIG: Final = 78  # sysexits.h
UID_LIMIT: Final = 2**32 - 1  # the last number means: no user
# Source ports are dealt to lists of flows by these bits; not by the last, because connect(2) takes
# even ones first.
PORT_BITS: Final = 0x1E
LISTS: Final = 16
BURST_SECONDS: Final = 4
QUESTION_BYTES: Final = 80  # of a usual one to a name server, with its headers

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Port = Annotated[int, Field(ge=1, le=65535)]


class RulesetError(Exception):
    """Template and parameters don't fit; the message is one line for a person."""


class Subordinates(BaseModel):
    """The range of subuid(5) that the engine's user has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    first: int = Field(ge=1, lt=UID_LIMIT)
    count: int = Field(ge=1, lt=UID_LIMIT)

    @model_validator(mode="after")
    def _in_range(self) -> Subordinates:
        if self.first + self.count > UID_LIMIT:
            raise ValueError(f"first {self.first} and count {self.count} end above {UID_LIMIT - 1}")
        return self

    @property
    def last(self) -> int:
        """The last id of the range."""
        return self.first + self.count - 1


class Boundary(BaseModel):
    """What the rules of one host depend on; the defaults are the contract's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # nft looks a name up when it loads the rules, so the account must be there by then.
    user: (
        Annotated[int, Field(ge=1, lt=UID_LIMIT)]
        | Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]{0,30}$")]
    ) = "flashpods"
    subordinates: Subordinates  # every other id that a container of the user can run as

    interface: str = Field("wg0", pattern=r"^[A-Za-z0-9_.-]{1,15}$")
    networks: tuple[Network, ...] = Field((IPv4Network("10.0.0.0/24"),), min_length=1)
    laptops: tuple[Address, ...] = Field((IPv4Address("10.0.0.2"),), min_length=1)
    wireguard_port: Port = 51820
    api_port: Port = 8080
    rsync_port: Port = 873
    ssh: Literal["nobody", "laptops", "anybody"] = "nobody"
    ssh_port: Port = 22
    metrics: Literal["nobody", "laptops"] = "nobody"
    metrics_port: Port = 9464

    resolvers: tuple[Address, ...]  # none: jobs have no names
    allow_private: bool = False
    allowed: tuple[Network, ...] = ()  # never a way to the host or to WireGuard's networks
    # Of all jobs together: nothing in a packet says whose it is (docs/decisions/0013).
    max_flows: int = Field(16384, ge=LISTS, le=2**20)  # at once, rounded up to a multiple of 16
    new_flows: int = Field(500, ge=1, le=2**16)  # a second

    @model_validator(mode="after")
    def _consistent(self) -> Boundary:
        for laptop in self.laptops:
            if not any(laptop in network for network in self.networks):
                raise ValueError(
                    f"laptops: {laptop} is in none of networks ({_listed(self.networks)}): "
                    f"give its address in WireGuard"
                )
        for name in ("api_port", "rsync_port"):
            if getattr(self, name) in DNS_PORTS:
                raise ValueError(f"{name} is {getattr(self, name)}, a port of DNS: take another")
        tcp = ("api_port", "rsync_port", "ssh_port", "metrics_port")
        if len({getattr(self, name) for name in tcp}) < len(tcp):
            raise ValueError(f"{', '.join(tcp)} must differ: two listeners can't share a port")
        for resolver in self.resolvers:
            if resolver.is_unspecified or resolver.is_multicast:
                raise ValueError(f"resolvers: {resolver} is no address of a name server")
        self._check_allowed()
        return self

    def _check_allowed(self) -> None:
        for network in self.allowed:
            if network.prefixlen == 0:
                raise ValueError(
                    f"allowed: {network} is everything: set allow_private if that is meant"
                )
            for ours in self.networks:
                if ours.version == network.version and ours.overlaps(network):
                    raise ValueError(
                        f"allowed: {network} overlaps WireGuard's {ours}, which no job reaches"
                    )


def substitutions(boundary: Boundary) -> dict[str, str]:
    """Return placeholder → text, the whole of what a template gets."""
    laptop_ports = [boundary.ssh_port] if boundary.ssh == "laptops" else []
    laptop_ports += [boundary.metrics_port] if boundary.metrics == "laptops" else []
    interface, range_ = boundary.interface, boundary.subordinates
    return {
        "interface": interface,
        "wireguard_port": str(boundary.wireguard_port),
        "api_port": str(boundary.api_port),
        "rsync_port": str(boundary.rsync_port),
        "user": f'"{boundary.user}"' if isinstance(boundary.user, str) else str(boundary.user),
        "subordinates": f"{range_.first}-{range_.last}",
        "private_verdict": "goto share" if boundary.allow_private else "goto refuse",
        "laptop_rules": _block(
            f'iifname "{interface}" {_ip(a)} saddr {a} goto laptop' for a in boundary.laptops
        ),
        "laptop_ports": _block(f"tcp dport {port} accept" for port in laptop_ports),
        "public_ports": f"tcp dport {boundary.ssh_port} accept"
        if boundary.ssh == "anybody"
        else "",
        "resolver_rules": _block(
            f"{_ip(a)} daddr {a} {protocol} dport 53 goto names"
            for a in boundary.resolvers
            for protocol in ("udp", "tcp")
        ),
        "network_rules": _block(
            f"{_ip(n)} daddr {n} counter name job_to_wireguard goto refuse"
            for n in boundary.networks
        ),
        "allowed_rules": _block(f"{_ip(n)} daddr {n} goto share" for n in boundary.allowed),
        "new_flows": str(boundary.new_flows),
        "burst": str(boundary.new_flows * BURST_SECONDS),
        "name_bytes": str(boundary.new_flows * QUESTION_BYTES),
        "name_burst": str(boundary.new_flows * QUESTION_BYTES * BURST_SECONDS),
        "flow_rules": _block(
            f"th sport & {PORT_BITS:#04x} == {2 * list_:#04x} ct count over "
            f"{-(-boundary.max_flows // LISTS)} counter name job_over_flows goto refuse"
            for list_ in range(LISTS)
        ),
    }


def render(template: str, boundary: Boundary) -> str:
    """Put the parameters into the template.

    Raises:
        RulesetError: the template has a placeholder that no parameter fills, or lacks one.
    """
    words = substitutions(boundary)
    wanted = set(PLACEHOLDER.findall(template))
    if unknown := sorted(wanted - set(words)):
        raise RulesetError(f"the template wants {_at(unknown)}, which no parameter fills")
    if missing := sorted(set(words) - wanted):
        raise RulesetError(f"the template lacks {_at(missing)}: its rules would miss something")
    return PLACEHOLDER.sub(lambda found: words[found[1]], template)


def main(arguments: list[str]) -> int:
    """Print the rule set of a template and a JSON file of parameters.

    Returns:
        0; 2 for wrong usage; 78 (EX_CONFIG) with one line that says what is wrong.
    """
    if len(arguments) != 2:
        sys.stderr.write("usage: flashpods-boundary TEMPLATE PARAMETERS.json\n")
        return 2
    template, parameters = (Path(argument) for argument in arguments)
    try:
        boundary = Boundary(**json.loads(parameters.read_text()))
        sys.stdout.write(render(template.read_text(), boundary))
    except ValidationError as e:
        sys.stderr.write(f"boundary: {parameters}: {_explain(e)}\n")
    except (OSError, ValueError, TypeError, RulesetError) as e:
        sys.stderr.write(f"boundary: {parameters}: {e}\n")
    else:
        return 0
    return EX_CONFIG


def program() -> None:
    """Run as ``flashpods-boundary``."""
    sys.exit(main(sys.argv[1:]))


def _ip(item: Address | Network) -> str:
    return "ip" if item.version == 4 else "ip6"


def _block(rules: Iterable[str]) -> str:
    return "\n\t\t".join(rules)


def _listed(items: Iterable[object]) -> str:
    return ", ".join(map(str, items))


def _at(names: Iterable[str]) -> str:
    return ", ".join(f"@{name}@" for name in names)


def _explain(error: ValidationError) -> str:
    """Join pydantic's findings to one line: key, value, what is allowed."""
    parts = []
    for finding in error.errors(include_url=False):
        key = ".".join(str(part) for part in finding["loc"])
        if finding["type"] == "extra_forbidden":
            parts.append(f"unknown key {key!r}")
        elif key:
            parts.append(f"{key}: {finding['msg']} (is {finding['input']!r:.80})")
        else:
            parts.append(finding["msg"])
    return "; ".join(parts)


if __name__ == "__main__":
    program()
