"""Jobs can't fill the table of connections: what they have of it, and what goes on meanwhile."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing

import pytest
from modes import pasta, slirp4netns
from netlab import ANSWER, HERE, RESOLVER, WEB4, WEB6, Lab, Prober, as_user, ruleset

from flashpods.boundary import LISTS
from flashpods_dev.machine import SUBIDS_START
from flashpods_dev.netns import Process

PORT = 4007
# Enough tries that each list gets more than it takes: 50 of 800, give or take 7.
BOUND, TRIES = 10 * LISTS, 800
# The kernel forgets one now and then that it counted on a processor and lost to another task there
# before it was in the table.
FORGOTTEN = LISTS
PROTOCOLS = ("tcp", "udp")
MANY = 2**16


@pytest.fixture(scope="module", autouse=True)
def listening(session_lab: Lab) -> None:
    """Who answers on a flow for as long as it is kept."""
    at = [[address, PORT] for address in (WEB4, WEB6)]
    session_lab.internet.serve("internet", echo=[PORT], udp=at)
    # What a job has left is gone soon; but not while it begins more, on a machine that stalls.
    for name in ("udp_timeout", "udp_timeout_stream", "tcp_timeout_close", "icmp_timeout"):
        session_lab.host.set(f"net/netfilter/nf_conntrack_{name}", "6")


class Flows:
    """A place from which flows are begun; see flows.py."""

    def __init__(self, lab: Lab, *wrap: str, address: str = WEB4) -> None:
        words = [*wrap, sys.executable, str(HERE / "flows.py"), address, str(PORT)]
        self._process = Process([*lab.host.enter, *words])

    def __call__(self, *task: str | int) -> dict[str, int]:
        """Have it do something; return what came of it."""
        said: dict[str, int] = json.loads(self._process.ask(json.dumps(task)))
        return said

    def close(self) -> None:
        self._process.end()


@pytest.fixture
def job(lab: Lab) -> Iterator[Flows]:
    """A process of the engine's user in the host's own namespace."""
    with closing(Flows(lab, *as_user())) as flows:
        yield flows


def entries(lab: Lab) -> int:
    """Return how many flows the host's table has."""
    return int(lab.host.run("cat", "/proc/sys/net/netfilter/nf_conntrack_count"))


def begin_when_possible(flows: Flows, protocol: str) -> None:
    """Begin a flow as soon as there is room for it."""
    end = time.monotonic() + 60
    while flows("open", protocol, 1) != {"echoed": 1}:
        assert time.monotonic() < end, "there is no room, although all flows are gone"


@pytest.mark.parametrize("address", [WEB4, WEB6])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_more_flows_than_the_bound_are_refused(lab: Lab, protocol: str, address: str) -> None:
    lab.load(ruleset(max_flows=BOUND, new_flows=MANY))
    before = entries(lab)
    with closing(Flows(lab, *as_user(), address=address)) as job:
        with lab.counted() as grown:
            said = job("open", protocol, TRIES)
        refused = "refused" if protocol == "tcp" else "unreachable"
        has = said["echoed"]
        assert BOUND <= has <= BOUND + FORGOTTEN
        assert said == {"echoed": has, refused: TRIES - has}
        assert grown.keys() == {"job_over_flows"}
        assert entries(lab) - before <= has + 10  # others' come and go

        assert job("use") == {"echoed": has}  # what it has goes on
        with closing(Flows(lab, address=address)) as root:
            assert root("open", protocol, 50) == {"echoed": 50}
        for service in (8080, 873):
            assert lab.laptop.probe().one("10.0.0.1", service) == "host"

        job("close")
        begin_when_possible(job, protocol)


def test_the_bound_is_all_jobs_together(lab: Lab, job: Flows) -> None:
    """Whichever of the engine's ids and whichever protocol: nothing else tells jobs apart."""
    lab.load(ruleset(max_flows=BOUND, new_flows=MANY))
    assert job("open", "tcp", TRIES)["echoed"] >= BOUND
    other = SUBIDS_START + 1000
    with closing(Flows(lab, *as_user(other, other), address=WEB6)) as another:
        assert another("open", "udp", TRIES).get("echoed", 0) <= FORGOTTEN


def test_flows_begun_too_fast_are_refused(lab: Lab, job: Flows) -> None:
    rate = 20
    lab.load(ruleset(new_flows=rate))
    began = time.monotonic()
    with lab.counted() as grown:
        said = job("open", "tcp", TRIES)
    most = 4 * rate + rate * (time.monotonic() - began) + 1
    assert 4 * rate <= said["echoed"] <= most
    assert grown == {"job_over_rate": TRIES - said["echoed"]}
    assert job("use") == {"echoed": said["echoed"]}
    begin_when_possible(job, "tcp")


def test_a_flow_counts_once_however_much_it_sends(lab: Lab) -> None:
    """A datagram that nobody answers leaves its flow a new one to conntrack, each time."""
    lab.load(ruleset(max_flows=LISTS, new_flows=1))  # one a list, four at first
    script = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        f"s.connect(({WEB4!r}, 9)); print('ready', flush=True)\n"
        "for _ in range(5000):\n"
        "    try: s.send(b'x')\n"
        "    except ConnectionRefusedError: pass\n"  # the port's own answer, not the rules'
        "print('sent', flush=True)"
    )
    silent = "table ip quiet { chain c { type filter hook input priority 0; udp dport 9 drop; }; }"
    lab.internet.run("nft", "-f", "-", text=silent)
    try:
        with lab.counted() as grown:
            assert lab.host.start(*as_user(), sys.executable, "-c", script).line() == "sent"
        assert grown == {}
    finally:
        lab.internet.run("nft", "delete", "table", "ip", "quiet")


def test_questions_to_the_resolver_are_bounded_on_one_flow_too(lab: Lab) -> None:
    """It asks on for jobs with a flow a question, as another user."""
    lab.load(ruleset(new_flows=10))  # 3200 bytes of questions at once, 800 a second
    question = b"\0\0\1\0\0\1" + bytes(6) + b"\4some\7example\0\0\1\0\1"
    script = (
        "import socket, time; began = time.monotonic()\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(30)\n"
        "s.bind(('127.0.0.1', 0)); print('ready', flush=True)\n"
        "said = []\n"
        "for _ in range(500):\n"
        "    try:\n"
        f"        s.sendto({question!r}, ({RESOLVER!r}, 53)); s.recv(100); said.append(True)\n"
        "    except PermissionError: said.append(False)\n"
        "print(sum(said), time.monotonic() - began, flush=True)"
    )
    with lab.counted() as grown:
        said = lab.host.start(*as_user(), sys.executable, "-c", script).line().split()
    answered, seconds = int(said[0]), float(said[1])
    size = 28 + len(question)
    # The kernel lets a second's more through at once.
    assert 3200 // size <= answered <= (4000 + 800 * seconds) / size + 1
    assert answered < 500 or seconds > 25  # a machine that slow lets all through
    assert grown == {"job_over_names": 500 - answered}


@pytest.mark.parametrize(("helper", "tcp"), [(slirp4netns, "refused"), (pasta, "silent")])
def test_what_a_refused_flow_looks_like_in_a_job(
    lab: Lab, job: Flows, helper: Callable[[Lab], AbstractContextManager[Prober]], tcp: str
) -> None:
    """As every refusal of the rules: slirp4netns passes on that of a connection, pasta of 2023 not.

    Neither does so for a datagram.
    """
    asked = {"tcp": 3.0 if tcp == "silent" else ANSWER, "udp": 3.0}  # a silence lasts as long
    with helper(lab) as prober:
        lab.load(ruleset(max_flows=BOUND, new_flows=MANY))
        assert job("open", "tcp", TRIES)["echoed"] >= BOUND
        with lab.counted() as grown:
            said = [prober.one(WEB4, PORT, protocol, soon) for protocol, soon in asked.items()]
        assert said == [tcp, "silent"]
        assert grown.keys() == {"job_over_flows"}
