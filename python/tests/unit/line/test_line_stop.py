"""Timeouts and cancellations: SIGTERM, grace, SIGKILL, at every stage of a job."""

from __future__ import annotations

import pytest
from line_world import World, full_disk, row_of

from flashpods.errors import Conflict
from flashpods.jobs.states import JobStatus
from flashpods.testing.runtime import Script


async def test_a_timeout_is_sigterm_then_grace_then_sigkill(world: World) -> None:
    world.runtime.default = Script(ignores_sigterm=True)
    job = await world.running()
    await world.clock.until_sleeping()
    world.clock.advance(60)
    await world.clock.until_sleeping()
    world.clock.advance(9)
    assert world.runtime.signals(job.container_name) == ["SIGTERM"]
    world.clock.advance(1)
    row = await world.ended(job)
    assert (row.status, row.exit_code) == (JobStatus.TIMED_OUT, 137)
    assert row.error == "Job exceeded timeout limit"


async def test_the_engines_backstop_is_a_timeout_too(world: World) -> None:
    job = await world.running()
    world.runtime.hit_backstop(job.container_name)
    assert (await world.ended(job)).status is JobStatus.TIMED_OUT


async def test_cancel_while_running(world: World) -> None:
    job = await world.running()
    shown = await world.supervisor.cancel(job.id)
    assert shown.status is JobStatus.RUNNING
    assert shown.cancel_requested_at is not None
    await world.supervisor.cancel(job.id)  # repeated: fine
    row = await world.ended(job)
    assert (row.status, row.exit_code) == (JobStatus.CANCELLED, 143)
    with pytest.raises(Conflict) as refused:
        await world.supervisor.cancel(job.id)
    assert refused.value.code == "job_already_terminal"


async def test_cancel_before_the_launch_makes_no_container(world: World) -> None:
    job = await world.accept()
    await world.supervisor.cancel(job.id)
    world.supervisor.begin(await row_of(world, job))
    assert (await world.ended(job)).status is JobStatus.CANCELLED
    assert world.runtime.created == []


async def test_cancel_while_the_engine_is_away(world: World) -> None:
    world.runtime.set_up(False)
    job = await world.accept()
    world.supervisor.begin(job)
    await world.until(job, JobStatus.STARTING)
    await world.supervisor.cancel(job.id)
    await world.clock.until_sleeping()
    assert not (await row_of(world, job)).terminal, "resources are given away unseen"
    world.runtime.set_up(True)
    world.clock.advance(10)
    assert (await world.ended(job)).status is JobStatus.CANCELLED


async def test_a_cancelled_job_never_becomes_completed(world: World) -> None:
    job = await world.running()
    await world.store.request_cancel(job.id, at=world.clock.now())
    world.runtime.exit(job.container_name, 0)
    assert (await world.ended(job)).status is JobStatus.CANCELLED


async def test_a_stop_gives_up_on_a_container_that_does_not_run(world: World) -> None:
    job = await world.running()
    world.runtime.reboot()
    await world.supervisor.cancel(job.id)
    for _ in range(2):  # the grace period, and the one after SIGKILL
        await world.clock.until_sleeping(2)  # beside it the job's own deadline
        world.clock.advance(10)
    assert (await world.ended(job)).status is JobStatus.CANCELLED


async def test_a_stop_goes_on_to_sigkill_though_nothing_can_be_noted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.runtime.default = Script(ignores_sigterm=True)
    job = await world.running()
    full_disk(world, monkeypatch, "note")
    await world.supervisor.cancel(job.id)
    await world.clock.until_sleeping(2)  # beside the grace period the job's own deadline
    world.clock.advance(10)
    await world.runtime.until(job.container_name, None)
    assert (await world.until(job, JobStatus.CANCELLED)).exit_code == 137
