"""``judge``: one pure function decides how a dead container ends its job."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flashpods.jobs.agent import ENTRYPOINT_ERRORS
from flashpods.jobs.model import JobType, Outcome
from flashpods.jobs.monitor import TIMEOUT_ERROR, judge
from flashpods.jobs.states import Trigger
from flashpods.ports import ContainerState
from flashpods.testing.rows import running_row

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
JOB = running_row("a" * 16, at=NOW)


def dead(
    code: int, *, oom: bool = False, backstop: bool = False, after: float = 1
) -> ContainerState:
    return ContainerState(
        id="c",
        name="job_c",
        job_id="a" * 16,
        status="exited",
        pid=None,
        exit_code=code,
        oom_killed=oom,
        backstop_hit=backstop,
        started_at=NOW,
        finished_at=NOW + timedelta(seconds=after),
    )


@pytest.mark.parametrize(
    ("state", "stopped_for", "trigger", "outcome"),
    [
        (dead(0), None, Trigger.SUCCEED, Outcome(exit_code=0)),
        (dead(1), None, Trigger.FAIL, Outcome(exit_code=1)),
        (dead(126), None, Trigger.FAIL, Outcome(exit_code=126)),
        (dead(137), None, Trigger.FAIL, Outcome(exit_code=137)),
        (dead(137, oom=True), None, Trigger.FAIL, Outcome(exit_code=137, error="oom_killed")),
        (dead(1, oom=True), None, Trigger.FAIL, Outcome(exit_code=137, error="oom_killed")),
        (
            dead(143),
            Trigger.TIME_OUT,
            Trigger.TIME_OUT,
            Outcome(exit_code=143, error=TIMEOUT_ERROR),
        ),
        (dead(0), Trigger.TIME_OUT, Trigger.TIME_OUT, Outcome(exit_code=0, error=TIMEOUT_ERROR)),
        (
            dead(137, backstop=True),
            None,
            Trigger.TIME_OUT,
            Outcome(exit_code=137, error=TIMEOUT_ERROR),
        ),
        (dead(0, after=61), None, Trigger.TIME_OUT, Outcome(exit_code=0, error=TIMEOUT_ERROR)),
        (dead(137), Trigger.CANCEL, Trigger.CANCEL, Outcome(exit_code=137)),
        (dead(0), Trigger.CANCEL, Trigger.CANCEL, Outcome(exit_code=0)),
        (None, None, Trigger.FAIL, Outcome(error="container_lost_on_recovery")),
        (None, Trigger.CANCEL, Trigger.CANCEL, Outcome()),
    ],
)
def test_each_death_has_its_ending(
    state: ContainerState | None, stopped_for: Trigger | None, trigger: Trigger, outcome: Outcome
) -> None:
    ending = judge(JOB, state, stopped_for=stopped_for)
    assert (ending.trigger, ending.outcome) == (trigger, outcome)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        *ENTRYPOINT_ERRORS.items(),
        *((code, "agent_command_failed") for code in (1, 127, 137, 192, 200, 208, 255)),
    ],
)
def test_an_agents_exit_code_names_its_error(code: int, error: str) -> None:
    agent = replace(JOB, type=JobType.AGENT)
    ending = judge(agent, dead(code))
    assert (ending.trigger, ending.outcome) == (Trigger.FAIL, Outcome(exit_code=code, error=error))
    assert error in ending.why
    worker = judge(JOB, dead(code))
    assert worker.outcome == Outcome(exit_code=code)
    assert judge(agent, dead(code), stopped_for=Trigger.CANCEL).outcome.error is None
    assert judge(agent, dead(code, oom=True)).outcome.error == "oom_killed"


def test_the_errors_of_agents_are_those_of_the_entrypoint() -> None:
    checkout = Path(__file__).resolve().parents[3]
    script = (checkout / "pkgs" / "agent-image" / "entrypoint.sh").read_text()
    header = script.split("set -uf")[0]
    documented = {int(c): e for c, e in re.findall(r"\b(20\d) ([a-z_]+)", header)}
    assert documented == ENTRYPOINT_ERRORS
    used = {int(c): e for c, e in re.findall(r"\bfail (20\d) ([a-z_]+)", script)}
    used |= {int(c): e for e, c in re.findall(r"finish ([a-z_]+) .* (20\d)$", script, re.MULTILINE)}
    assert used == ENTRYPOINT_ERRORS


@pytest.mark.parametrize("state", [dead(0), dead(1), dead(137, backstop=True), None])
def test_a_recorded_cancellation_wins_over_everything(state: ContainerState | None) -> None:
    assert judge(replace(JOB, cancel_requested_at=NOW), state).trigger is Trigger.CANCEL


def test_a_child_killed_for_memory_under_a_successful_command_is_a_warning() -> None:
    ending = judge(JOB, dead(0, oom=True))
    assert ending.trigger is Trigger.SUCCEED
    assert ending.warnings


def test_a_step_of_the_wall_clock_makes_no_job_late_that_we_saw_end() -> None:
    """The engine's clock says a year later; our own timer knows better."""
    year = 365 * 86400
    assert judge(JOB, dead(0, after=year), watched=True).trigger is Trigger.SUCCEED
    assert judge(JOB, dead(0, after=year)).trigger is Trigger.TIME_OUT  # after a restart: by it
