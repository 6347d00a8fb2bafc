"""Who gets in: the laptop to what it may, root on the host, and nobody else."""

from __future__ import annotations

from typing import Any

import judge
import pytest
from netlab import FOREIGN_DNS, HOST4, HOST6, OTHERS, OWN, PORTS, RESOLVER, WEB4, WEB6, Lab, ruleset

from flashpods_dev.machine import UID


@pytest.mark.parametrize(
    ("parameters", "laptop", "internet"),
    [
        ({}, {8080, 873}, set()),
        ({"ssh": "laptops"}, {8080, 873, 22}, set()),
        ({"ssh": "anybody"}, {8080, 873, 22}, {22}),
        ({"metrics": "laptops"}, {8080, 873, 9464}, set()),
        ({"ssh": "anybody", "metrics": "laptops"}, {8080, 873, 22, 9464}, {22}),
    ],
)
def test_ports(lab: Lab, parameters: dict[str, Any], laptop: set[int], internet: set[int]) -> None:
    at_laptop, outside = lab.laptop.probe(), lab.internet.probe()
    tries = [(at_laptop, "10.0.0.1", laptop), (at_laptop, "fd77::1", laptop)]
    tries += [(outside, HOST4, internet), (outside, HOST6, internet)]
    lab.unload()
    for prober, address, _ in tries:
        assert set(prober(*(("tcp", address, port) for port in PORTS))) == {"host"}
    lab.load(ruleset(**parameters))
    for prober, address, allowed in tries:
        shut = [("tcp", address, port) for port in PORTS if port not in allowed]
        if allowed:
            assert set(prober(*(("tcp", address, port) for port in allowed))) == {"host"}
        judge.expect_shut(lab, prober, shut, "input_other", {"silent"})


def test_another_peer_gets_nothing(lab: Lab) -> None:
    """Who has WireGuard but is not listed; and a neighbour who takes the laptop's address."""
    lab.laptop.ip("route add 10.0.0.1/32 dev wg0 src 10.0.0.3")
    lab.internet.ip(
        "addr add 10.0.0.2/32 dev lo", f"route add 10.0.0.1/32 via {HOST4} src 10.0.0.2"
    )
    cells = [("tcp", "10.0.0.1", port) for port in PORTS]
    try:
        for prober in (lab.laptop.probe(), lab.internet.probe()):
            judge.expect_shut(lab, prober, cells, "input_other", {"silent"})
    finally:
        lab.laptop.ip("route del 10.0.0.1/32")
        lab.internet.ip("route del 10.0.0.1/32", "addr del 10.0.0.2/32 dev lo")


def test_wireguard_is_open_to_all(lab: Lab) -> None:
    assert lab.internet.probe().one(HOST4, 51820, "udp") == "host"


def test_root_reaches_all(lab: Lab) -> None:
    """Health checks, administration, Prometheus: whoever is not the engine's user is not bound."""
    at = [("tcp", address, port) for address in OWN for port in PORTS]
    for uid in (0, UID + 1):
        prober = lab.host.probe("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups")
        assert set(prober(*at)) == {"host"}
        assert prober(("tcp", WEB4, 8080), ("tcp", "10.0.0.2", 22)) == ["internet", "laptop"]
        assert prober.one(FOREIGN_DNS, 53) == "internet"


def test_neighbours_are_found(lab: Lab) -> None:
    """IPv6 lives by ICMP: forget the neighbours on both sides, and it must still work."""
    for namespace, device in ((lab.host, "eth0"), (lab.internet, "up0")):
        namespace.run("ip", "-6", "neigh", "flush", "dev", device)
    assert lab.host.probe().one(WEB6, 80) == "internet"


def test_nothing_passes_through(lab: Lab) -> None:
    """Not from a bridge, not from the laptop, not from outside; nor to the host from a bridge."""
    bridged = lab.bridged.probe()
    own = [
        ("tcp", a, port) for a in OWN if ":" not in a and not a.startswith("127") for port in PORTS
    ]
    ways = {
        bridged: [("tcp", WEB4, 80), ("tcp", "10.0.0.2", 22)],
        lab.laptop.probe(): [("tcp", WEB4, 80)],
        lab.internet.probe(): [("tcp", "10.88.0.2", 80)],
    }
    lab.unload()
    assert set(bridged(*own)) == {"host"}
    assert bridged.one(WEB4, 80) == "internet"
    lab.load()
    judge.expect_shut(lab, bridged, own, "input_other", judge.NOBODY)
    for prober, cells in ways.items():
        judge.expect_shut(lab, prober, cells, "forward_any", judge.NOBODY)


def test_the_resolver_is_reached_by_name_service_alone(lab: Lab) -> None:
    with lab.counted() as grown:
        job = lab.host.probe("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups")
        assert job.one(RESOLVER, 53) == "resolver"
        judge.expect_nobody(judge.cells([RESOLVER]), job(*judge.cells([RESOLVER])))
    assert grown == {"job_to_service": 2, "job_to_host": len(OTHERS) + 1}
