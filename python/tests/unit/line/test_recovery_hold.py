"""What the first recovery holds launches for, what it does not, and for how long at most."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from line_world import HOST, World, starting

from flashpods.errors import Unavailable
from flashpods.jobs import recovery
from flashpods.jobs.model import Grant, Job, Step
from flashpods.jobs.states import JobStatus, Trigger
from flashpods.ports import ContainerState


@asynccontextmanager
async def recovering(world: World) -> AsyncIterator[None]:
    """Run recovery from a process's start on."""
    task = asyncio.create_task(world.recovery.run())
    await asyncio.sleep(0)  # launches are held from here
    try:
        async with asyncio.timeout(30):
            yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def accepted(world: World) -> Job:
    job = await world.accept()
    world.supervisor.begin(job)
    return job


async def turns() -> None:
    """Give all tasks more turns than a launch takes, some ten: what could happen has."""
    for _ in range(100):
        await asyncio.sleep(0)


async def orphan(world: World, *, status: str) -> Job:
    """Leave a container, in that state, of a job that has ended."""
    job = await starting(world, status=status)
    step = Step(why="test", at=world.clock.now())
    return await world.store.advance(job.id, JobStatus.STARTING, Trigger.FAIL, step)


def unseen_for_good(world: World, patch: pytest.MonkeyPatch, job: Job) -> None:
    """Have the engine not show the job's container, as long as it is there."""
    inspect = world.runtime.inspect

    async def fails(name_or_id: str) -> ContainerState | None:
        found = await inspect(name_or_id)
        if found is not None and found.name == job.container_name:
            raise Unavailable("its layer is not known")
        return found

    patch.setattr(world.runtime, "inspect", fails)


def unseen(world: World, patch: pytest.MonkeyPatch, job: Job, error: Exception) -> None:
    """Have the engine answer for every container but the job's."""
    inspect = world.runtime.inspect

    async def fails(name_or_id: str) -> ContainerState | None:
        if name_or_id == job.container_name:
            raise error
        return await inspect(name_or_id)

    patch.setattr(world.runtime, "inspect", fails)


def stays(world: World, patch: pytest.MonkeyPatch, until: asyncio.Event | None) -> None:
    """Have no container removed before the event; with None, have all removals refused."""
    remove = world.runtime.remove

    async def late(name_or_id: str) -> None:
        if until is None:
            raise Unavailable("it does not go")
        await until.wait()
        await remove(name_or_id)

    patch.setattr(world.runtime, "remove", late)


@pytest.mark.parametrize("error", [Unavailable("its layer is not known"), KeyError("layer")])
async def test_a_create_that_may_be_under_way_holds_launches(
    world: World, error: Exception
) -> None:
    """Of two at once the engine may die (docs/decisions/0010)."""
    lost = await starting(world, status=None)
    async with recovering(world):
        with pytest.MonkeyPatch.context() as patch:
            unseen(world, patch, lost, error)
            job = await accepted(world)
            await world.clock.until_sleeping()  # it has gone through, and tries again soon
            await turns()
            row = await world.store.get(job.id)
            assert row is not None
            assert (row.status, world.runtime.created) == (JobStatus.PENDING, [])
        world.clock.advance(2)
        await world.until(job, JobStatus.RUNNING)
        row = await world.until(lost, JobStatus.FAILED)
        assert row.error == "container_not_found_on_recovery"


async def test_a_running_job_that_is_not_to_be_seen_holds_only_what_it_has(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its create is over, and its row reserves its CPUs and its memory."""
    hidden = await world.running()
    await world.crash()
    unseen(world, monkeypatch, hidden, Unavailable("its layer is not known"))
    async with recovering(world):
        job = await accepted(world)
        await world.until(job, JobStatus.RUNNING)
        reserved = await world.store.reserved()
        assert (reserved.jobs, reserved.cpus) == (2, 2)
        assert not world.supervisor.has(hidden.id)
        assert world.runtime.removed == []
        assert world.runtime.signals(hidden.container_name) == []


async def test_what_runs_without_a_row_goes_before_anything_is_launched(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No row reserves what it takes."""
    gone = asyncio.Event()
    stays(world, monkeypatch, gone)
    left = await orphan(world, status="running")
    async with recovering(world):
        job = await accepted(world)
        await turns()
        assert world.runtime.created == [left.container_name]
        gone.set()
        await world.until(job, JobStatus.RUNNING)
        assert world.runtime.removed == [left.container_name]


async def test_what_is_dead_holds_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    stays(world, monkeypatch, asyncio.Event())
    await orphan(world, status="exited")
    async with recovering(world):
        await world.until(await accepted(world), JobStatus.RUNNING)
        assert world.runtime.removed == []


@pytest.mark.parametrize("trouble", ["unseen", "orphan stays", "orphan hangs"])
async def test_one_broken_container_does_not_stop_the_host(
    world: World, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    monkeypatch.setattr(recovery, "HOLD_SECONDS", 0.2)
    if trouble == "unseen":
        broken = await starting(world, status="initialized")
        unseen(world, monkeypatch, broken, Unavailable("its layer is not known"))
    else:
        broken = await orphan(world, status="running")
        stays(world, monkeypatch, asyncio.Event() if trouble == "orphan hangs" else None)
    async with recovering(world):
        job = await accepted(world)
        await world.until(job, JobStatus.RUNNING)  # although it never goes
        assert await world.runtime.containers() != []
        assert world.runtime.created == [broken.container_name, job.container_name]


async def test_an_engine_that_is_away_is_waited_for_however_long(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound is on doubt about a container, not on an engine that says nothing at all."""
    monkeypatch.setattr(recovery, "HOLD_SECONDS", 0)
    world.runtime.set_up(False)
    async with recovering(world):
        job = await accepted(world)
        for _ in range(5):
            await world.clock.until_sleeping()
            world.clock.advance(2)
            await turns()
        row = await world.store.get(job.id)
        assert row is not None
        assert row.status is JobStatus.PENDING
        world.runtime.set_up(True)
        await world.clock.until_sleeping()
        world.clock.advance(2)
        await world.until(job, JobStatus.RUNNING)


async def test_so_many_are_looked_at_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "LOOKS_AT_ONCE", 3)
    jobs = [await world.running() for _ in range(HOST.cpus)]
    await world.crash()
    inspect, at_once, most = world.runtime.inspect, 0, 0

    async def counted(name_or_id: str) -> ContainerState | None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        try:
            return await inspect(name_or_id)
        finally:
            at_once -= 1

    with monkeypatch.context() as patch:
        patch.setattr(world.runtime, "inspect", counted)
        await world.recovery.run_once()
    assert most == 3
    assert all(world.supervisor.has(job.id) for job in jobs)


@pytest.mark.parametrize("why", ["cancelled", "timed out", "stuck"])
async def test_a_job_that_is_to_end_does_so_though_its_container_is_not_to_be_seen(
    world: World, why: str
) -> None:
    """It would keep its CPUs, its memory and its name for ever."""
    job = await (starting(world, status="initialized") if why == "stuck" else world.running())
    await world.crash()
    if why == "cancelled":
        await world.supervisor.cancel(job.id)
    with pytest.MonkeyPatch.context() as patch:
        unseen_for_good(world, patch, job)
        for _ in range(3):
            with pytest.raises(Unavailable):
                await world.recovery.run_once()
            assert world.runtime.removed == []
            world.clock.advance(20)
        if why != "cancelled":  # a minute to run, ten seconds of grace, thirty of the backstop's
            with pytest.raises(Unavailable):
                await world.recovery.run_once()
            assert world.runtime.removed == []
            world.clock.advance(300)
        with pytest.raises(Unavailable):
            await world.recovery.run_once()
        assert world.runtime.removed == [job.container_name]
        await world.recovery.run_once()
        row = await world.ended(job)
    assert (row.status, row.error) == {
        "cancelled": (JobStatus.CANCELLED, None),
        "timed out": (JobStatus.FAILED, "container_lost_on_recovery"),
        "stuck": (JobStatus.FAILED, "container_not_found_on_recovery"),
    }[why]


async def test_a_job_that_is_not_to_end_keeps_a_container_that_is_not_to_be_seen(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await world.running(grant=Grant(cpus=1, memory_gb=1, timeout_minutes=60))
    await world.crash()
    unseen_for_good(world, monkeypatch, job)
    for _ in range(10):
        with pytest.raises(Unavailable):
            await world.recovery.run_once()
        world.clock.advance(60)
    assert world.runtime.removed == []
    await world.supervisor.cancel(job.id)
    with pytest.raises(Unavailable):
        await world.recovery.run_once()
    assert world.runtime.removed == [job.container_name]


async def test_what_is_seen_again_is_taken_up(world: World) -> None:
    job = await world.running()
    await world.crash()
    await world.supervisor.cancel(job.id)
    with pytest.MonkeyPatch.context() as patch:
        unseen_for_good(world, patch, job)
        for _ in range(2):
            with pytest.raises(Unavailable):
                await world.recovery.run_once()
            world.clock.advance(recovery.UNSEEN_SECONDS - 1)
    await world.recovery.run_once()
    row = await world.ended(job)
    assert (row.status, row.exit_code) == (JobStatus.CANCELLED, 143)
