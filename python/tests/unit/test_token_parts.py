"""The token service's rules: callers by their cgroup, policy, places, the audit's quiet."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from flashpods.config_tokens import Tokens
from flashpods.errors import BadRequest, Forbidden, TooMany, Unauthorized, Unavailable
from flashpods.ports.identity import JobContainer
from flashpods.token.audit import MOST_PEERS, QUIET_SECONDS, Audit
from flashpods.token.callers import job_container
from flashpods.token.door import Door, Seat
from flashpods.token.exchange import bearer
from flashpods.token.metrics import OUTCOMES, Metrics
from flashpods.token.policy import Policy

JOB, CONTAINER = "0123456789abcdef", "ab" * 32
PARENT = "/system.slice/podman-socket-flashpods.service/ctrs"
INSIDE = f"{PARENT}/job_{JOB}/libpod-{CONTAINER}"


@pytest.mark.parametrize("parent", [PARENT, f"{PARENT}/"])
@pytest.mark.parametrize("below", ["", "/container", "/init.scope/deeper", f"/libpod-{'0' * 64}"])
def test_a_job_by_its_cgroup(parent: str, below: str) -> None:
    assert job_container(INSIDE + below, parent) == JobContainer(
        job_id=JOB, name=f"job_{JOB}", id=CONTAINER
    )


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        PARENT,
        f"{PARENT}/",
        f"{PARENT}/job_{JOB}",
        f"{PARENT}/job_{JOB}/",
        f"{PARENT}/job_{JOB}/libpod-{CONTAINER[:-1]}",
        f"{PARENT}/job_{JOB}/libpod-{CONTAINER}0",
        f"{PARENT}/job_{JOB}/libpod-{CONTAINER.upper()}",
        f"{PARENT}/job_{JOB}/libpod-conmon-{CONTAINER}",
        f"{PARENT}/job_{JOB}/libpod-payload-{CONTAINER}",
        f"{PARENT}/job_{JOB}/x/libpod-{CONTAINER}",
        f"{PARENT}/job_{JOB}/../job_{JOB}/libpod-{CONTAINER}",
        f"{PARENT}/{JOB}/libpod-{CONTAINER}",
        f"{PARENT}/job_{JOB[:-1]}/libpod-{CONTAINER}",
        f"{PARENT}/job_{JOB}\n/libpod-{CONTAINER}",
        f"{PARENT}/job_{JOB}/libpod-{CONTAINER}\n",
        f"{PARENT}/job_job_{JOB}/libpod-{CONTAINER}",
        f"/..{INSIDE}",
        f"/user.slice{INSIDE}",
        f"{INSIDE} (deleted)",
        f"{INSIDE}/container (deleted)",
        INSIDE.lstrip("/"),
    ],
)
def test_what_is_no_jobs_cgroup(path: str) -> None:
    assert job_container(path, PARENT) is None


@given(st.text())
def test_any_path_is_read(path: str) -> None:
    assert job_container(path, PARENT) is None
    job_container(f"{PARENT}/job_{path}", PARENT)


def test_the_policy_by_default() -> None:
    policy = Policy(Tokens().policy)
    agent = policy.grant("spiffe://flashpods.local/agent")
    worker = policy.grant("spiffe://flashpods.local/worker")
    assert (agent.job_type, set(agent.granted), agent.answered_null) == (
        "agent",
        {"ANTHROPIC_API_KEY", "GITHUB_TOKEN"},
        (),
    )
    assert (worker.job_type, worker.granted, worker.answered_null) == (
        "worker",
        ("GITHUB_TOKEN",),
        ("ANTHROPIC_API_KEY",),
    )
    assert policy.names == {"ANTHROPIC_API_KEY", "GITHUB_TOKEN"}
    for unknown in ("", "spiffe://flashpods.local/host", "spiffe://flashpods.local/agent/"):
        with pytest.raises(Forbidden) as refused:
            policy.grant(unknown)
        assert (refused.value.status, refused.value.code) == (403, "unknown_identity")


def test_the_bearer_token() -> None:
    assert bearer([b"Bearer abc"]) == bearer([b"bEARER   abc  "]) == "abc"
    for wrong in ([], [b""], [b"Bearer"], [b"Bearer "], [b"Basic abc"], [b"Bearerabc"], [b"abc"]):
        with pytest.raises(BadRequest) as missing:
            bearer(wrong)
        assert missing.value.code == "missing_authorization"
    for odd in ([b"Bearer a", b"Bearer a"], [b"Bearer \xc3\xa9"]):
        with pytest.raises(Unauthorized) as invalid:
            bearer(odd)
        assert invalid.value.code == "invalid_jwt"


def test_spaces_without_end_take_no_time() -> None:
    began = time.process_time()
    with pytest.raises(Unauthorized):
        bearer([b"Bearer x" + b" " * 60_000 + b"x" + b"\xff"])
    assert bearer([b"Bearer x" + b" " * 60_000 + b"x"])
    assert time.process_time() - began < 1


class Peer:
    def __init__(self, path: str | None, uid: int = 990) -> None:
        self.path, self.pid, self.uid, self.closed = path, 7, uid, False

    def cgroup(self) -> str | None:
        return self.path

    def close(self) -> None:
        self.closed = True


def door(metrics: Metrics, most: int = 4, most_per_peer: int = 2) -> Door:
    """A door whose sockets are their own peers."""
    return Door(
        cgroup_parent=PARENT,
        most=most,
        most_per_peer=most_per_peer,
        metrics=metrics,
        peer_of=lambda sock: sock,
    )


def value(metrics: Metrics, name: str, **labels: str) -> Any:
    return metrics.registry.get_sample_value(name, labels)


def test_a_peer_takes_no_more_than_its_own_places() -> None:
    metrics = Metrics()
    entry = door(metrics)
    seats = [entry.enter(Peer(INSIDE)) for _ in range(2)]
    assert {seat.key for seat in seats} == {f"job_{JOB}"}
    late = Peer(INSIDE)
    with pytest.raises(TooMany, match="2 connections are open from here"):
        entry.enter(late)
    assert late.closed
    hosts = [entry.enter(Peer("/user.slice", uid)) for uid in (1000, 1001)]
    assert {seat.key for seat in hosts} == {"uid 1000", "uid 1001"}
    with pytest.raises(Unavailable, match="too many connections"):
        entry.enter(Peer("/user.slice", 1002))
    entry.leave(seats[0])
    entry.enter(Peer(INSIDE))
    assert value(metrics, "flashpods_token_connections") == 4
    refused = "flashpods_token_connections_refused_total"
    assert value(metrics, refused, bound="peer") == value(metrics, refused, bound="all") == 1


def test_a_seat_looks_again() -> None:
    peer = Peer(INSIDE)
    seat = Seat(peer, PARENT)
    assert seat.container() is not None
    peer.path = None
    assert seat.container() is None
    assert seat.key == f"job_{JOB}"  # by which it was counted


def test_refusals_for_their_rate_are_said_now_and_then() -> None:
    now = [0.0]
    audit = Audit(Metrics(), lambda: now[0])
    one, other = Seat(Peer(INSIDE), PARENT), Seat(Peer("/", 5), PARENT)
    with capture_logs() as logged:
        for _ in range(100):
            audit.too_often(one)
        audit.too_often(other)
        now[0] += QUIET_SECONDS
        audit.too_often(one)
    assert [(line["peer"], line["not_logged"]) for line in logged] == [
        (f"job_{JOB}", 0),
        ("uid 5", 0),
        (f"job_{JOB}", 99),
    ]
    with capture_logs():
        for uid in range(MOST_PEERS + 10):
            audit.too_often(Seat(Peer("/", uid), PARENT))
    assert len(audit._quiet) == MOST_PEERS


def test_outcomes_are_bounded() -> None:
    metrics = Metrics()
    for outcome in ("granted", "odd", "odder"):
        metrics.exchanged(outcome, 0.002)
    name = "flashpods_token_exchange_duration_seconds_count"
    assert value(metrics, name, outcome="other") == 2
    assert all(value(metrics, name, outcome=outcome) is not None for outcome in OUTCOMES)
    assert b"NaN" in metrics.render(lambda: float("nan"))
