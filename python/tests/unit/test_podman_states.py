"""From the engine's JSON to ContainerState."""

from datetime import UTC, datetime
from typing import Any

import pytest

from flashpods.adapters.podman.states import from_inspect, from_list, parse_time

ZERO = "0001-01-01T00:00:00Z"


def inspected(status: str, **state: Any) -> dict[str, Any]:
    base = {
        "Status": status,
        "Pid": 0,
        "ExitCode": 0,
        "OOMKilled": False,
        "StartedAt": "2026-11-24T10:00:00.123456789Z",
        "FinishedAt": "2026-11-24T10:00:10.5Z",
    }
    config = {"Labels": {"flashpods-job-id": "abc"}, "Timeout": state.pop("timeout", 60)}
    return {"Id": "i", "Name": "job_abc", "State": base | state, "Config": config}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ZERO, None),
        ("", None),
        ("2026-11-24T10:00:00Z", datetime(2026, 11, 24, 10, tzinfo=UTC)),
        ("2026-11-24T10:00:00.1Z", datetime(2026, 11, 24, 10, 0, 0, 100_000, tzinfo=UTC)),
        ("2026-11-24T12:00:00.123456789+02:00", datetime(2026, 11, 24, 10, 0, 0, 123456, UTC)),
    ],
)
def test_times(text: str, expected: datetime | None) -> None:
    assert parse_time(text) == expected


@pytest.mark.parametrize(
    ("podman", "ours"),
    [
        ("created", "created"),
        ("initialized", "initialized"),
        ("running", "running"),
        ("stopping", "running"),
        ("paused", "running"),
        ("stopped", "exited"),
        ("exited", "exited"),
        ("dead", "exited"),
        ("removing", "exited"),
        ("something new", "exited"),
    ],
)
def test_statuses(podman: str, ours: str) -> None:
    assert from_inspect(inspected(podman)).status == ours


def test_running_has_no_exit_code() -> None:
    state = from_inspect(inspected("running", Pid=7, FinishedAt=ZERO))
    assert (state.exit_code, state.pid, state.finished_at) == (None, 7, None)
    assert state.started_at is not None


@pytest.mark.parametrize("status", ["stopped", "exited"])
def test_dead_has_one(status: str) -> None:
    state = from_inspect(inspected(status, ExitCode=3, Pid=7, OOMKilled=True))
    assert (state.exit_code, state.pid, state.oom_killed) == (3, None, True)


def test_minus_one_after_the_timeout_is_the_backstop() -> None:
    state = from_inspect(inspected("exited", ExitCode=-1, timeout=10))
    assert (state.exit_code, state.backstop_hit) == (137, True)


@pytest.mark.parametrize("timeout", [0, 60])
def test_minus_one_before_it_is_a_lost_status(timeout: int) -> None:
    state = from_inspect(inspected("stopped", ExitCode=-1, timeout=timeout))
    assert (state.exit_code, state.backstop_hit) == (None, False)


def listed(state: str, **changes: Any) -> dict[str, Any]:
    return {
        "Id": "i",
        "Names": ["job_abc"],
        "State": state,
        "ExitCode": 0,
        "Pid": 9,
        "Labels": {"flashpods-job-id": "abc"},
        "StartedAt": 1_795_513_096,
        "ExitedAt": -62135596800,
    } | changes


def test_list_items() -> None:
    running = from_list(listed("running"))
    assert running is not None
    assert (running.job_id, running.pid, running.exit_code, running.finished_at) == (
        "abc",
        9,
        None,
        None,
    )
    exited = from_list(listed("exited", ExitCode=4, Pid=0, ExitedAt=1_795_513_100))
    assert exited is not None
    assert (exited.exit_code, exited.pid) == (4, None)
    assert exited.finished_at == datetime.fromtimestamp(1_795_513_100, UTC)
    created = from_list(listed("created", Pid=0, StartedAt=-62135596800))
    assert created is not None
    assert created.started_at is None


def test_a_listed_backstop_needs_an_inspection() -> None:
    assert from_list(listed("exited", ExitCode=-1)) is None


def test_where_nothing_more_is_to_be_had_an_exit_code_is_unknown() -> None:
    removing = from_list(listed("removing", ExitCode=-1, Pid=0), bare=True)
    assert removing is not None
    assert (removing.status, removing.exit_code) == ("exited", None)
    known = from_list(listed("removing", ExitCode=4, Pid=0, ExitedAt=1_795_513_100), bare=True)
    assert known is not None
    assert known.exit_code == 4


def test_what_ran_when_the_power_went_has_not_exited() -> None:
    """Podman 5 calls it exited with 0 after the boot; it has seen no end of it."""
    state = from_inspect(inspected("exited", ExitCode=0, FinishedAt=ZERO))
    assert (state.status, state.exit_code, state.finished_at) == ("created", None, None)
    assert state.started_at is not None
    assert from_list(listed("exited", Pid=0)) is None


def test_what_never_ran_has_no_start() -> None:
    state = from_inspect(inspected("exited", ExitCode=0, StartedAt=ZERO, FinishedAt=ZERO))
    assert (state.status, state.exit_code, state.started_at) == ("exited", 0, None)
