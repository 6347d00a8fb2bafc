"""A host between the internet and a laptop, made of network namespaces; and processes in it.

    internet ── eth0 ┐
      laptop ── wg0  ├ host
     bridged ── br0  ┘

Nothing of the machine's own network is touched, and all of it ends with its processes: the
namespaces have no names. ``wg0`` is a veth here; WireGuard itself is in ``./dev lab``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from flashpods.boundary import Boundary, render
from flashpods_dev.machine import SUBIDS_COUNT, SUBIDS_START, UID
from flashpods_dev.netns import SECONDS, Namespace, Process

HERE: Final = Path(__file__).parent
CHECKOUT: Final = HERE.parents[2]
TEMPLATE: Final = CHECKOUT / "modules" / "network" / "ruleset.nft"

ANSWER: Final = 20.0  # seconds; whoever answers or refuses does so at once, or when it is its turn
SERVICES: Final = (8080, 873)
OTHERS: Final = (8081, 22, 9464, 7777)  # SPIRE's server, ssh, metrics, a free port as control
PORTS: Final = (*SERVICES, *OTHERS)

HOST4, HOST6 = "198.51.100.10", "2001:db8:1::10"
GATEWAY4, GATEWAY6 = "198.51.100.1", "2001:db8:1::1"
WEB4, WEB6 = "203.0.113.80", "2001:db8:2::80"
RESOLVER, FOREIGN_DNS = "127.0.0.53", "203.0.113.53"
METADATA = ("169.254.169.254", "168.63.129.16", "100.100.100.200", "fd00:ec2::254", "fd20:ce::254")
LINK = ("169.254.1.2", "169.254.1.3")
PRIVATE = (
    *("10.20.30.40", "172.16.5.5", "192.168.99.99", "100.64.1.1", "198.18.0.1"),
    *("fd99::99", "64:ff9b::c0a8:6363", "2002:c0a8:6363::1"),
    *("10.0.2.2", "10.0.2.3", "fd00::2"),  # slirp4netns has them, or they are somebody's
)
INTERNET = (GATEWAY4, GATEWAY6, WEB4, WEB6, FOREIGN_DNS, *METADATA, *LINK, *PRIVATE)
OWN = (
    *(HOST4, HOST6, "198.51.100.11", "10.0.0.1", "fd77::1", "10.88.0.1"),
    *("127.0.0.1", "::1", RESOLVER),
)
LAPTOP = ("10.0.0.2", "fd77::2")

BOUNDARY: Final = {
    "user": UID,
    "subordinates": {"first": SUBIDS_START, "count": SUBIDS_COUNT},
    "networks": ["10.0.0.0/24", "fd77::/64"],
    "laptops": ["10.0.0.2", "fd77::2"],
    "resolvers": [RESOLVER],
}


def ruleset(**parameters: Any) -> str:
    """Return the rules of the host here, with some parameters changed."""
    return render(TEMPLATE.read_text(), Boundary(**{**BOUNDARY, **parameters}))


class Host(Namespace):
    """A namespace in which our scripts run."""

    def serve(self, who: str, *, uid: int = 0, **plan: Any) -> Process:
        """Start listeners; see servers.py."""
        drop = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"] if uid else []
        script = str(HERE / "servers.py")
        return self.start(*drop, sys.executable, script, json.dumps({"who": who, **plan}))

    def probe(self, *wrap: str, **options: Any) -> Prober:
        """Start a prober in it, wrapped into another command."""
        return Prober(self.start(*wrap, sys.executable, str(HERE / "probe.py"), **options))


class Prober:
    """A place that a job has; see probe.py."""

    def __init__(self, process: Process) -> None:
        self.process = process

    def __call__(self, *cells: tuple[str, str, int], seconds: float = ANSWER) -> list[str]:
        """Return what each of the cells, tried at once, came to; a silence lasts ``seconds``."""
        question = json.dumps({"seconds": seconds, "cells": cells})
        answer: list[str] = json.loads(self.process.ask(question, seconds + SECONDS))
        assert len(answer) == len(cells)
        return answer

    def one(self, address: str, port: int, protocol: str = "tcp", seconds: float = ANSWER) -> str:
        """Return what one cell came to."""
        return self((protocol, address, port), seconds=seconds)[0]


class Lab:
    """The four namespaces, with their addresses, routes and listeners."""

    wireguard: Sequence[tuple[str, int]] = ((HOST4, 51820),)  # where a stand-in for it listens

    def __init__(self, stack: ExitStack, services: Sequence[int] = SERVICES) -> None:
        """Bring it up; ``services`` are the ports that a stand-in listens on."""
        self.stack = stack
        self.host, self.internet, self.laptop, self.bridged = (Host(stack) for _ in range(4))
        self._wire()
        self._serve(services)

    def _wire(self) -> None:
        host = self.host
        for near, far, other in (("eth0", "up0", self.internet), ("port0", "eth0", self.bridged)):
            host.ip(f"link add {near} type veth peer name {far} netns {other.pid}")
        self._join_laptop()
        host.ip(
            "link add br0 type bridge",
            "link set port0 master br0",
            *(f"addr add {address}/32 dev lo" for address in ("127.0.0.53",)),
            f"addr add {HOST4}/24 dev eth0",
            "addr add 198.51.100.11/24 dev eth0",
            f"addr add {HOST6}/64 dev eth0 nodad",
            "addr add fe80::10/64 dev eth0 nodad",
            "addr add 10.0.0.1/24 dev wg0",
            "addr add fd77::1/64 dev wg0 nodad",
            "addr add 10.88.0.1/16 dev br0",
            *(f"link set {name} up" for name in ("eth0", "wg0", "port0", "br0")),
            f"route add default via {GATEWAY4}",
            f"route add default via {GATEWAY6}",
        )
        self.internet.ip(
            f"addr add {GATEWAY4}/24 dev up0",
            f"addr add {GATEWAY6}/64 dev up0 nodad",
            "addr add fe80::1/64 dev up0 nodad",
            *(f"addr add {a}/{128 if ':' in a else 32} dev lo" for a in INTERNET[2:]),
            "link set up0 up",
            f"route add 10.88.0.0/16 via {HOST4}",
        )
        self.laptop.ip(
            "addr add 10.0.0.2/24 dev wg0",
            "addr add 10.0.0.3/24 dev wg0",  # another peer, who may not
            "addr add fd77::2/64 dev wg0 nodad",
            "link set wg0 up",
            "route add default via 10.0.0.1",
        )
        self.bridged.ip(
            "addr add 10.88.0.2/16 dev eth0", "link set eth0 up", "route add default via 10.88.0.1"
        )
        host.set("net/ipv4/ip_forward", "1")
        host.set("net/ipv4/ip_unprivileged_port_start", "0")

    def _join_laptop(self) -> None:
        """Make ``wg0`` on the host and on the laptop."""
        self.host.ip(f"link add wg0 type veth peer name wg0 netns {self.laptop.pid}")

    def _serve(self, services: Sequence[int]) -> None:
        at = [[address, 7777] for address in OWN]
        # As on a host: the API and rsync answer as the very user that jobs run as.
        self.host.serve("host", uid=UID, tcp=services)
        self.host.serve("host", tcp=OTHERS, udp=[*at, *self.wireguard], echo=[7])
        self.host.serve("resolver", tcp=[53], dns=[[RESOLVER, 53]])
        udp = [[address, 7777] for address in INTERNET]
        web = (80, 443, 53, 853)
        self.internet.serve("internet", tcp=(*PORTS, *web), udp=udp, dns=[[FOREIGN_DNS, 53]])
        self.laptop.serve("laptop", tcp=PORTS, udp=[[address, 7777] for address in LAPTOP])

    # ------------------------------------------------------------------ rules

    def load(self, rules: str | None = None) -> None:
        """Load a rule set: the usual one."""
        self.host.run("nft", "-f", "-", text=ruleset() if rules is None else rules)

    def unload(self) -> None:
        """Take our table away, if it is there."""
        self.host.run("nft", "-f", "-", text="table inet flashpods\ndelete table inet flashpods\n")

    def counters(self) -> dict[str, int]:
        """Return the packets that each named counter of ours has seen."""
        listed = json.loads(
            self.host.run("nft", "-j", "list", "counters", "table", "inet", "flashpods")
        )
        found = (entry.get("counter") for entry in listed["nftables"])
        return {c["name"]: c["packets"] for c in found if c}

    @contextmanager
    def counted(self) -> Iterator[dict[str, int]]:
        """Give a dictionary that holds, after the block, what each counter grew by, if it did."""
        before = self.counters()
        grown: dict[str, int] = {}
        yield grown
        after = self.counters()
        grown |= {name: n - before[name] for name, n in after.items() if n > before[name]}


@contextmanager
def resolv_conf(text: str, scratch: Path) -> Iterator[None]:
    """Have another /etc/resolv.conf, in this mount namespace and those made from it."""
    ours = scratch / "resolv.conf"
    ours.write_text(text)
    ours.chmod(0o644)
    subprocess.run(["mount", "--bind", str(ours), "/etc/resolv.conf"], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", "/etc/resolv.conf"], check=True)


def as_user(uid: int = UID, gid: int = UID) -> list[str]:
    """Return the words that make a command run as the engine's user, or a subordinate id."""
    return [
        "setpriv",
        f"--reuid={uid}",
        f"--regid={gid}",
        "--clear-groups",
        "env",
        f"HOME={os.sep}",
    ]
