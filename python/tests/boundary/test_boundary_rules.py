"""What a job may do, rule by rule, where the matrix does not say it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import judge
import modes
import pytest
from netlab import (
    FOREIGN_DNS,
    HERE,
    HOST4,
    HOST6,
    OTHERS,
    PRIVATE,
    SERVICES,
    WEB4,
    WEB6,
    Lab,
    Prober,
    as_user,
    ruleset,
)

from flashpods_dev.machine import RSYNC_UID, SUBIDS_START, UID


@pytest.fixture
def job(lab: Lab) -> Iterator[Prober]:
    """A process of the engine's user in the host's namespace, the strongest place there is."""
    with modes.in_host(lab, UID) as prober:
        yield prober


@pytest.mark.parametrize("uid", [UID, SUBIDS_START, SUBIDS_START + 1000, RSYNC_UID])
def test_every_id_of_the_engine_is_bound(lab: Lab, uid: int) -> None:
    with modes.in_host(lab, uid) as prober, lab.counted() as grown:
        assert prober.one("10.0.0.1", 8080) == "refused"
    assert grown == {"job_to_service": 1}


@pytest.mark.parametrize("uid", [UID - 1, UID + 1, SUBIDS_START - 1, RSYNC_UID + 1])
def test_the_neighbouring_ids_are_not(lab: Lab, uid: int) -> None:
    with modes.in_host(lab, uid) as prober:
        assert prober.one("10.0.0.1", 8080) == "host"


def test_other_name_servers(lab: Lab, job: Prober) -> None:
    cells = [(kind, FOREIGN_DNS, 53) for kind in ("tcp", "udp")]
    cells += [("tcp", WEB4, 853), ("tcp", WEB6, 53)]
    with lab.counted() as grown:
        judge.expect_nobody(cells, job(*cells))
    assert grown == {"job_to_dns": len(cells)}
    lab.load(ruleset(resolvers=[FOREIGN_DNS]))
    assert job.one(FOREIGN_DNS, 53) == "internet"
    judge.expect_nobody(cells[2:], job(*cells[2:]))


def test_private_networks_by_option(lab: Lab, job: Prober) -> None:
    cells = [("tcp", address, port) for address in PRIVATE for port in OTHERS]
    lab.load(ruleset(allow_private=True))
    assert set(job(*cells)) == {"internet"}
    shut = judge.cells(["10.0.0.1", "10.0.0.2", "fd77::2", "169.254.169.254", "fd00:ec2::254"])
    shut += [("tcp", PRIVATE[0], port) for port in SERVICES]
    judge.expect_nobody(shut, job(*shut))


def test_allowed_destinations(lab: Lab, job: Prober) -> None:
    lab.load(ruleset(allowed=["192.168.99.0/24", "192.168.99.99/32", "fd99::99/128"]))
    for address in ("192.168.99.99", "fd99::99"):
        assert job.one(address, 22) == "internet"
        assert job.one(address, 8080) == "refused"
    assert job.one("10.20.30.40", 22) == "refused"


def test_no_allowed_destination_opens_the_host(lab: Lab, job: Prober) -> None:
    lab.load(ruleset(allowed=["198.51.100.0/24", "127.0.0.0/8", "169.254.0.0/16", "2001:db8::/32"]))
    shut = judge.cells([HOST4, "127.0.0.1", "169.254.169.254", "2001:db8:1::10"])
    judge.expect_nobody(shut, job(*shut))


def test_broadcast_and_multicast(lab: Lab) -> None:
    script = (
        "import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
        "s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1);"
        "print('ready', flush=True);\n"
        "for a in ('255.255.255.255', '198.51.100.255', '224.0.0.251', '127.255.255.255'):\n"
        "    try: s.sendto(b'x', (a, 7777)); print('sent', a)\n"
        "    except OSError: pass\n"
        "print('done', flush=True)"
    )
    with lab.counted() as grown:
        process = lab.host.start(*as_user(), sys.executable, "-c", script)
        assert process.line() == "done"
    assert grown == {"job_to_host": 4}


def test_source_routing(lab: Lab) -> None:
    """A segment routing header (RFC 8754): by way of the internet to an address of the host."""
    segments = f"a(socket.AF_INET6, {HOST6!r}) + a(socket.AF_INET6, {WEB6!r})"
    script = (
        "import socket; a = socket.inet_pton\n"
        "s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\n"
        f"header = bytes([0, 4, 4, 1, 1, 0, 0, 0]) + {segments}\n"
        "s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RTHDR, header)\n"
        "print('ready', flush=True)\n"
        f"try: s.sendto(b'x', ({WEB6!r}, 7777)); print('sent', flush=True)\n"
        "except PermissionError: print('refused', flush=True)"
    )
    with lab.counted() as grown:
        assert lab.host.start(*as_user(), sys.executable, "-c", script).line() == "refused"
    assert grown == {"job_to_routed": 1}


@pytest.mark.parametrize(("address", "port"), [("10.0.0.1", 7), ("127.0.0.1", 7)])
def test_no_riding_on_a_connection_older_than_the_rules(lab: Lab, address: str, port: int) -> None:
    """What a job began is no answer, however established conntrack finds it."""
    lab.unload()
    ride = lab.host.start(*as_user(), sys.executable, str(HERE / "ride.py"), address, str(port))
    # Have conntrack follow it from its middle, as it does when only later rules ask for states.
    lab.load(
        "table inet follow { chain c { type filter hook output priority 0; ct state new; }; };"
    )
    try:
        assert ride.ask("one") == "echoed"
        assert ride.ask("two") == "echoed"
        lab.load()
        assert ride.ask("refused") != "echoed"
        # New with the rules: the acknowledgement of what came before may be the one refused.
        assert lab.counters()["job_to_host"] >= 1
    finally:
        lab.load("delete table inet follow")


def test_no_riding_on_what_the_laptop_began(lab: Lab) -> None:
    """A job that listens beside the API is not found, and can't call back."""
    lab.host.serve("job", uid=UID, tcp=[9999])
    judge.expect_shut(
        lab, lab.laptop.probe(), [("tcp", "10.0.0.1", 9999)], "input_other", {"silent"}
    )
    with modes.in_host(lab, UID) as job, lab.counted() as grown:
        assert job.one("10.0.0.2", 7777) == "refused"
    assert grown == {"job_to_wireguard": 1}


def test_scan_of_ports(lab: Lab, job: Prober) -> None:
    """./dev lab does it for every port and every address; ./dev identity does it from a job."""
    scan = [*lab.host.enter, *as_user(), sys.executable, str(HERE / "scan.py")]
    lab.unload()
    control = subprocess.run(
        [*scan, "8000", "9500", "10.0.0.1"], stdout=subprocess.PIPE, check=True
    )
    assert json.loads(control.stdout)["10.0.0.1"] == [8080, 8081, 9464]
    lab.load()
    with lab.counted() as grown:
        done = subprocess.run([*scan, "1", "10000", "10.0.0.1"], stdout=subprocess.PIPE, check=True)
    assert json.loads(done.stdout) == {"10.0.0.1": [], "tried": 10000, "silent": 0}
    assert grown == {"job_to_service": 2, "job_to_host": 9998}
