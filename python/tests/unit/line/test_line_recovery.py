"""Recovery after a crash or a reboot: the table of what each job is found as."""

from __future__ import annotations

import asyncio

import pytest
from line_world import World, recovered, row_of, starting

from flashpods.errors import Unavailable
from flashpods.jobs.model import (
    FinalTree,
    UploadState,
)
from flashpods.jobs.states import JobStatus
from flashpods.ports import ContainerState
from flashpods.testing.runtime import Script


async def test_recovery_running_running(world: World) -> None:
    job = await world.running()
    await world.crash()
    await recovered(world)
    assert world.supervisor.has(job.id)
    assert world.recoveries == ["resumed"]
    world.runtime.exit(job.container_name, 0)
    assert (await world.ended(job)).status is JobStatus.COMPLETED
    assert world.runtime.created == [job.container_name]


async def test_recovery_exited_running(world: World) -> None:
    job = await world.running()
    await world.crash()
    world.runtime.exit(job.container_name, 3)
    await recovered(world)
    row = await world.ended(job)
    assert (row.status, row.exit_code) == (JobStatus.FAILED, 3)


async def test_recovery_exited_after_the_deadline(world: World) -> None:
    job = await world.running()
    await world.crash()
    world.clock.advance(61)
    world.runtime.hit_backstop(job.container_name)
    await recovered(world)
    assert (await world.ended(job)).status is JobStatus.TIMED_OUT


async def test_recovery_none_pending(world: World) -> None:
    world.runtime.default = Script(exits=0)
    job = await world.accept()
    await recovered(world)
    assert world.recoveries == ["restarted"]
    assert (await world.ended(job)).status is JobStatus.COMPLETED


async def test_recovery_none_pending_with_its_upload_gone(world: World) -> None:
    upload_id = "upload_" + "b" * 12
    now = world.clock.now()
    later = now.replace(year=now.year + 1)
    await world.store.adopt(upload_id, at=now, expires_at=later)
    await world.store.begin_finalize(upload_id, at=now)
    final = FinalTree(at=now, expires_at=later, size_bytes=1, file_count=1, total_quota_bytes=100)
    await world.store.complete_finalize(upload_id, final)
    job = await world.accept(files_id=upload_id)
    await recovered(world)
    row = await world.ended(job)
    assert (row.status, row.error) == (JobStatus.FAILED, "upload_lost")
    upload = await world.store.get_upload(upload_id)
    assert upload is not None
    assert upload.state is UploadState.EXPIRED


async def test_recovery_none_starting(world: World) -> None:
    job = await starting(world, status=None)
    await recovered(world)
    row = await world.ended(job)
    assert (row.status, row.error) == (JobStatus.FAILED, "container_not_found_on_recovery")


async def test_recovery_initialized_starting_goes_on_with_the_launch(world: World) -> None:
    job = await starting(world, status="initialized")
    await recovered(world)
    await world.runtime.until(job.container_name, "running")
    world.runtime.exit(job.container_name, 0)
    assert (await world.ended(job)).status is JobStatus.COMPLETED
    assert world.runtime.created == [job.container_name]


async def test_recovery_running_starting(world: World) -> None:
    job = await starting(world, status="running")
    await recovered(world)
    await world.until(job, JobStatus.RUNNING)
    world.runtime.exit(job.container_name, 0)
    assert (await world.ended(job)).status is JobStatus.COMPLETED


async def test_recovery_exited_starting(world: World) -> None:
    job = await starting(world, status="exited")
    await recovered(world)
    assert (await world.ended(job)).status is JobStatus.COMPLETED
    assert await world.history(job) == ["pending", "starting", "running", "completed"]


async def test_recovery_none_running(world: World) -> None:
    job = await world.running()
    await world.crash()
    world.runtime.vanish(job.container_name)
    await recovered(world)
    row = await world.ended(job)
    assert (row.status, row.error) == (JobStatus.FAILED, "container_lost_on_recovery")


async def test_recovery_after_a_reboot_does_not_run_the_command_again(world: World) -> None:
    job = await world.running()
    await world.crash()
    world.runtime.reboot()
    await recovered(world)
    row = await world.ended(job)
    assert (row.status, row.error) == (JobStatus.FAILED, "container_lost_on_recovery")


async def test_recovery_after_a_reboot_while_starting(world: World) -> None:
    job = await starting(world, status="running")
    world.runtime.reboot()
    await recovered(world)
    row = await world.ended(job)
    assert (row.status, row.error) == (JobStatus.FAILED, "container_not_found_on_recovery")


async def test_recovery_takes_the_containers_own_time_of_start(world: World) -> None:
    job = await starting(world, status="running")
    began = world.clock.now()
    world.clock.advance(50)
    await recovered(world)
    assert (await world.until(job, JobStatus.RUNNING)).started_at == began


async def test_a_launch_repeated_by_recovery_has_the_rest_of_its_time(world: World) -> None:
    job = await starting(world, status="initialized")
    world.clock.advance(301)
    await recovered(world)
    row = await world.ended(job)
    assert (row.status, row.error) == (JobStatus.FAILED, "stuck_in_starting")


async def test_recovery_finishes_a_recorded_cancellation(world: World) -> None:
    job = await world.running()
    await world.crash()
    await world.store.request_cancel(job.id, at=world.clock.now())
    await recovered(world)
    assert (await world.ended(job)).status is JobStatus.CANCELLED


async def test_recovery_waits_with_backoff_for_the_engine(world: World) -> None:
    job = await world.running()
    await world.crash()
    world.runtime.set_up(False)
    task = asyncio.create_task(world.recovery.run())
    await world.clock.until_sleeping()
    world.runtime.set_up(True)
    world.clock.advance(1)
    await world.clock.until_sleeping(2)  # the job's deadline, and the next recovery
    task.cancel()
    assert world.supervisor.has(job.id)
    assert world.runtime.removed == []


@pytest.mark.parametrize("error", [Unavailable("its layer is not known"), KeyError("layer")])
async def test_one_container_that_is_not_to_be_seen_keeps_no_other_job(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    jobs = [await world.running() for _ in range(3)]
    await world.crash()
    inspect = world.runtime.inspect

    async def fails(name_or_id: str) -> ContainerState | None:
        if name_or_id == jobs[1].container_name:
            raise error
        return await inspect(name_or_id)

    with monkeypatch.context() as patched:
        patched.setattr(world.runtime, "inspect", fails)
        with pytest.raises(type(error), match="layer"):  # so that it is tried again soon
            await world.recovery.run_once()
        assert [world.supervisor.has(job.id) for job in jobs] == [True, False, True]
    assert world.runtime.removed == []
    await world.recovery.run_once()
    assert world.supervisor.has(jobs[1].id)


async def test_a_defect_of_recovery_holds_up_no_new_job(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken() -> list[ContainerState]:
        raise KeyError("Names")

    monkeypatch.setattr(world.runtime, "containers", broken)
    task = asyncio.create_task(world.recovery.run())
    await world.clock.until_sleeping()
    await world.running()
    task.cancel()


async def test_nothing_is_launched_before_the_first_recovery(world: World) -> None:
    """A create of the process before may be under way, and two at once may kill the engine."""
    world.runtime.set_up(False)
    task = asyncio.create_task(world.recovery.run())
    await world.clock.until_sleeping()  # it tries again after a while
    jobs = [await world.accept() for _ in range(2)]
    for job in jobs:
        world.supervisor.begin(job)
    await world.supervisor.cancel(jobs[1].id)  # needs no engine: nothing was asked of it
    assert (await world.until(jobs[1], JobStatus.CANCELLED)).started_at is None
    assert (await row_of(world, jobs[0])).status is JobStatus.PENDING
    world.runtime.set_up(True)
    world.clock.advance(2)
    await world.until(jobs[0], JobStatus.RUNNING)
    assert world.runtime.created == [jobs[0].container_name]
    task.cancel()
