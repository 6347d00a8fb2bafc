"""The boundary's rules with the kernel's own WireGuard, which only the guest has.

The namespaces are those of the quick tests, where ``wg0`` is a veth. Here two peers reach the host
through the internet, each with a key of its own.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import modes
import pytest
from netlab import HOST4, HOST6, LAPTOP, OTHERS, PORTS, SERVICES, WEB4, Host, Lab, Prober

from flashpods_dev.machine import UID

pytestmark = pytest.mark.timeout(400)

Note = Callable[[str], None]
PATIENT = 30  # seconds for what must answer; under emulation a connection takes some
SILENCE = 2  # seconds after which nothing more is expected
INNER = ("10.0.0.1", "fd77::1")
PEERS = {"laptop": LAPTOP, "other": ("10.0.0.3", "fd77::3")}


class WireGuardLab(Lab):
    """The namespaces, the laptop and another peer joined to the host by WireGuard."""

    wireguard = ()  # the kernel's listens there

    def __init__(self, stack: ExitStack) -> None:
        """Bring it up."""
        self.other = Host(stack)
        super().__init__(stack)

    def _join_laptop(self) -> None:
        keys = {name: wg("genkey") for name in ("host", *PEERS)}
        public = {name: wg("pubkey", text=key) for name, key in keys.items()}
        allowed = {
            name: ", ".join(f"{a}/{128 if ':' in a else 32}" for a in addresses)
            for name, addresses in PEERS.items()
        }
        peers = "".join(peer(public[name], allowed[name]) for name in PEERS)
        self._add(self.host, f"PrivateKey = {keys['host']}\nListenPort = 51820\n{peers}")
        # What a peer sends through it is the peer's to say: all.
        everything = f"0.0.0.0/0, ::/0\nEndpoint = {HOST4}:51820"
        for number, (name, namespace) in enumerate(self.places().items(), 1):
            network = f"192.0.{number}"
            self.internet.ip(
                f"link add far{number} type veth peer name eth0 netns {namespace.pid}",
                f"addr add {network}.1/24 dev far{number}",
                f"link set far{number} up",
            )
            namespace.ip(
                f"addr add {network}.2/24 dev eth0",
                "link set eth0 up",
                f"route add 198.51.100.0/24 via {network}.1",
            )
            self._add(namespace, f"PrivateKey = {keys[name]}\n{peer(public['host'], everything)}")
        self.internet.set("net/ipv4/ip_forward", "1")
        four, six = PEERS["other"]
        self.other.ip(
            f"addr add {four}/24 dev wg0", f"addr add {six}/64 dev wg0 nodad", "link set wg0 up"
        )

    def places(self) -> dict[str, Host]:
        """Return the peers' namespaces."""
        return {"laptop": self.laptop, "other": self.other}

    @staticmethod
    def _add(namespace: Host, interface: str) -> None:
        namespace.ip("link add wg0 type wireguard")
        namespace.run("wg", "setconf", "wg0", "/dev/stdin", text=f"[Interface]\n{interface}")


def wg(*arguments: str, text: str = "") -> str:
    """Run wg(8) and return what it prints."""
    done = subprocess.run(
        ["wg", *arguments], input=text, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip()


def peer(key: str, allowed: str) -> str:
    """Return a peer's section."""
    return f"[Peer]\nPublicKey = {key}\nAllowedIPs = {allowed}\n"


@pytest.fixture(scope="module")
def lab() -> Iterator[WireGuardLab]:
    with ExitStack() as stack:
        yield WireGuardLab(stack)


@pytest.fixture(scope="module")
def probers(lab: WireGuardLab) -> dict[str, Prober]:
    """A prober with each peer; both have shaken hands with the host."""
    lab.unload()
    found = {name: namespace.probe() for name, namespace in lab.places().items()}
    for prober in found.values():
        assert set(prober(*cells(INNER, PORTS), seconds=PATIENT)) == {"host"}
    lab.load()
    return found


def cells(addresses: Sequence[str], ports: Sequence[int]) -> list[tuple[str, str, int]]:
    return [("tcp", address, port) for address in addresses for port in ports]


def expect_silence(lab: Lab, prober: Prober, *tried: tuple[str, str, int]) -> int:
    """Nobody answers, and the rule for it has seen every try; return how many packets it saw."""
    with lab.counted() as grown:
        assert set(prober(*tried, seconds=SILENCE)) == {"silent"}
    assert set(grown) == {"input_other"}
    assert grown["input_other"] >= len(tried)
    return grown["input_other"]


def test_it_is_the_kernels(lab: WireGuardLab, probers: dict[str, Prober], note: Note) -> None:
    (link,) = json.loads(lab.host.run("ip", "-json", "-details", "link", "show", "wg0"))
    assert link["linkinfo"]["info_kind"] == "wireguard"
    times = lab.host.run("wg", "show", "wg0", "latest-handshakes").split()[1::2]
    assert len(times) == len(probers)
    assert "0" not in times
    note(f"(8) WireGuard of the kernel, {len(times)} peers with a handshake")


def test_the_laptop_reaches_the_api_and_rsync_and_nothing_else(
    lab: WireGuardLab, probers: dict[str, Prober], note: Note
) -> None:
    laptop = probers["laptop"]
    assert set(laptop(*cells(INNER, SERVICES), seconds=PATIENT)) == {"host"}
    dropped = expect_silence(lab, laptop, *cells(INNER, OTHERS))
    with lab.counted() as grown:  # nor through the host to the internet or a bridge
        assert set(laptop(*cells((WEB4, "10.88.0.2"), (80,)), seconds=SILENCE)) == {"silent"}
    assert set(grown) == {"forward_any"}
    note(f"(8) laptop over wg0: {SERVICES} answer, {OTHERS} do not ({dropped} packets dropped)")


def test_another_peer_with_a_key_gets_nothing(
    lab: WireGuardLab, probers: dict[str, Prober]
) -> None:
    expect_silence(lab, probers["other"], *cells(INNER, PORTS))


def test_another_peer_with_the_laptops_address_gets_nothing(
    lab: WireGuardLab, probers: dict[str, Prober]
) -> None:
    """WireGuard itself drops what comes from an address that is not that peer's."""
    lab.other.ip("addr add 10.0.0.2/32 dev wg0", "route replace 10.0.0.1 dev wg0 src 10.0.0.2")
    try:
        tried = cells(("10.0.0.1",), PORTS)
        with lab.counted() as grown:
            assert set(probers["other"](*tried, seconds=SILENCE)) == {"silent"}
        assert grown == {}
    finally:
        lab.other.ip("route del 10.0.0.1 dev wg0", "addr del 10.0.0.2/32 dev wg0")


@pytest.mark.usefixtures("probers")
def test_the_laptops_address_without_wireguard_gets_nothing(lab: WireGuardLab) -> None:
    lab.internet.ip(
        "addr add 10.0.0.2/32 dev lo", f"route add 10.0.0.1/32 via {HOST4} src 10.0.0.2"
    )
    try:
        expect_silence(lab, lab.internet.probe(), *cells(("10.0.0.1",), PORTS))
    finally:
        lab.internet.ip("route del 10.0.0.1/32", "addr del 10.0.0.2/32 dev lo")


@pytest.mark.usefixtures("probers")
def test_the_internet_gets_nothing(lab: WireGuardLab) -> None:
    expect_silence(lab, lab.internet.probe(), *cells((HOST4, HOST6), PORTS))


@pytest.mark.usefixtures("probers")
def test_a_job_reaches_neither_the_host_nor_the_laptop(lab: WireGuardLab, note: Note) -> None:
    with modes.in_host(lab, UID) as job, lab.counted() as grown:
        assert set(job(*cells(INNER, SERVICES), seconds=PATIENT)) == {"refused"}
        assert set(job(*cells(LAPTOP, (22,)), seconds=PATIENT)) == {"refused"}
        assert job.one(WEB4, 80, seconds=PATIENT) == "internet"
    assert grown == {"job_to_service": 4, "job_to_wireguard": 2}
    note(f"(8) a process of the engine's user: {grown}")
