"""From ``running`` to the end of the container: exit, deadline or cancellation."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from flashpods import failpoints
from flashpods.errors import InsufficientStorage, Unavailable
from flashpods.jobs.agent import agent_error
from flashpods.jobs.disk import Excess
from flashpods.jobs.line import Line
from flashpods.jobs.model import Job, JobType, Outcome, Phase
from flashpods.jobs.states import Trigger
from flashpods.ports import ContainerState

log = structlog.get_logger(__name__)

TIMEOUT_ERROR = "Job exceeded timeout limit"
KILLED = 137  # 128 + SIGKILL, the shell's convention


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How the container's life ended, before its output is collected."""

    trigger: Trigger
    outcome: Outcome
    why: str
    warnings: tuple[str, ...] = ()


def deadline(job: Job) -> datetime:
    """Return when a running job times out."""
    assert job.started_at is not None
    return job.started_at + timedelta(minutes=job.timeout_minutes)


def judge(
    job: Job,
    state: ContainerState | None,
    *,
    stopped_for: Trigger | None = None,
    excess: Excess | None = None,
    watched: bool = False,
) -> Ending:
    """Turn a dead container into the job's ending: pure, the same in life and in recovery.

    Args:
        job: the row; a recorded cancellation wins over everything.
        state: the dead container, or None if it is gone.
        stopped_for: TIME_OUT or CANCEL if we stopped it.
        excess: why it was killed, if its disk use was why; in recovery the row's warnings tell.
        watched: whether we saw it run until it died. Then our own timer, which no step of the
            wall clock moves, has told whether it was late.
    """
    code = state.exit_code if state is not None else None
    excess = excess or (Excess.noted(job.warnings) if code == KILLED else None)
    if job.cancel_requested_at is not None or stopped_for is Trigger.CANCEL:
        return Ending(trigger=Trigger.CANCEL, outcome=Outcome(exit_code=code), why="cancelled")
    if excess is not None:
        outcome = Outcome(exit_code=code, error=excess.error)
        return Ending(trigger=Trigger.FAIL, outcome=outcome, why=excess.why)
    if state is None:
        return Ending(
            trigger=Trigger.FAIL,
            outcome=Outcome(error="container_lost_on_recovery"),
            why="the container is gone",
        )
    late = not watched and state.finished_at is not None and state.finished_at >= deadline(job)
    if stopped_for is Trigger.TIME_OUT or state.backstop_hit or late:
        return Ending(
            trigger=Trigger.TIME_OUT,
            outcome=Outcome(exit_code=code, error=TIMEOUT_ERROR),
            why=f"ran longer than {job.timeout_minutes} minutes",
        )
    return _by_itself(job, state)


def _by_itself(job: Job, state: ContainerState) -> Ending:
    """Judge a container that nobody stopped."""
    code = state.exit_code
    if code == 0:
        # The command survived the kill of a child and called itself successful: so it was.
        warned = ("a process of the job was killed for memory",) if state.oom_killed else ()
        return Ending(
            trigger=Trigger.SUCCEED, outcome=Outcome(exit_code=0), why="exit 0", warnings=warned
        )
    if state.oom_killed:
        return Ending(
            trigger=Trigger.FAIL,
            outcome=Outcome(exit_code=KILLED, error="oom_killed"),
            why=f"killed for memory (limit {job.memory_gb} GB)",
        )
    if code is None:  # the engine's own supervisor of the container was killed
        lost = Outcome(error="exit_status_lost")
        return Ending(trigger=Trigger.FAIL, outcome=lost, why="the engine lost the exit status")
    error = agent_error(code) if job.type is JobType.AGENT else None
    why = f"exit {code}" + (f", {error}" if error else "")
    return Ending(trigger=Trigger.FAIL, outcome=Outcome(exit_code=code, error=error), why=why)


async def monitor(
    line: Line, job: Job, container_id: str, cancel: asyncio.Event, *, watched: bool = True
) -> Ending:
    """Wait for the container's end; stop it at its deadline or when ``cancel`` is set.

    Kill it when it takes too much of the host's disks.

    ``watched``: whether it was alive when this process first saw it.
    """
    failpoints.hit("monitor.before_wait")
    left = (deadline(job) - line.clock.now()).total_seconds()
    ended = asyncio.create_task(line.runtime.wait(container_id))
    asked = asyncio.create_task(cancel.wait())
    timer = asyncio.create_task(line.clock.sleep(max(left, 0)))
    over = asyncio.create_task(line.disk.exceeded(job, container_id))
    tasks = (ended, asked, timer, over)
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        stopped_for, excess = None, None
        if not ended.done():
            if asked.done():
                stopped_for = Trigger.CANCEL
            elif over.done():
                excess = over.result()
                await _note(line, job, excess)
            else:
                stopped_for = Trigger.TIME_OUT
            await stop(line, job, container_id, ended, at_once=excess is not None)
        failpoints.hit("monitor.after_wait")
        state = ended.result() if ended.done() else None
        return judge(job, state, stopped_for=stopped_for, excess=excess, watched=watched)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _note(line: Line, job: Job, excess: Excess) -> None:
    """Keep why the job is about to be killed, if there is room for that: it may be what it took."""
    try:
        await line.warn(job, [excess.warning])
    except (Unavailable, InsufficientStorage) as e:
        log.warning("reason_not_kept", job_id=job.id, reason=e.message)


async def stop(
    line: Line,
    job: Job,
    container_id: str,
    ended: asyncio.Task[ContainerState | None],
    *,
    at_once: bool = False,
) -> None:
    """SIGTERM to PID 1, the grace period, SIGKILL to the whole; return when it is dead.

    ``at_once``: SIGKILL without warning, because it does harm meanwhile: it fills the disk, on
    which the engine may have no room to note that it is dead.

    An engine that does not answer is asked again for as long as it takes: the job is not ended
    before its container is. One that the engine says does not run has no end to wait for.
    """
    if not at_once:
        failpoints.hit("monitor.before_sigterm")
        await _signal(line, container_id, "SIGTERM")
        failpoints.hit("monitor.after_sigterm")
        await line.show(job, Phase.STOPPING)
    grace = asyncio.create_task(line.clock.sleep(0 if at_once else line.policy.grace))
    try:
        await asyncio.wait({ended, grace}, return_when=asyncio.FIRST_COMPLETED)
        while not ended.done():
            failpoints.hit("monitor.before_sigkill")
            await _signal(line, container_id, "SIGKILL")
            failpoints.hit("monitor.after_sigkill")
            again = asyncio.create_task(line.clock.sleep(line.policy.grace))
            await asyncio.wait({ended, again}, return_when=asyncio.FIRST_COMPLETED)
            again.cancel()
            if not ended.done() and at_once:
                at_once = False  # once: then the engine has room to notice
                await line.make_room(job)
                continue
            if not ended.done() and await _runs_no_more(line, container_id):
                return
    finally:
        grace.cancel()


async def _runs_no_more(line: Line, container_id: str) -> bool:
    """Whether the engine is sure; e.g. a host that was rebooted lost the container's process."""
    try:
        state = await line.runtime.inspect(container_id)
    except Unavailable:
        return False
    return state is None or not state.running


async def _signal(line: Line, container_id: str, signal: str) -> None:
    try:
        await line.runtime.kill(container_id, signal)
    except Unavailable:
        return  # the caller sends SIGKILL again after the grace period
