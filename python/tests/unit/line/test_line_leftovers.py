"""What recovery removes, what it leaves alone, and for how long."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from line_world import World, failed, recovered, spec_of, starting

from flashpods.errors import Unavailable
from flashpods.jobs.model import (
    container_name,
)
from flashpods.jobs.recovery import DEAD_SECONDS, LATE_LOOK
from flashpods.testing.stores import MemoryStore


async def test_one_orphan_that_stays_keeps_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [await starting(world, status="running") for _ in range(2)]
    for job in jobs:
        await failed(world, job)
    stuck = await world.runtime.inspect(jobs[0].container_name)
    assert stuck is not None
    remove = world.runtime.remove

    async def fails(name_or_id: str) -> None:
        if name_or_id == stuck.id:
            raise Unavailable("it does not go")
        await remove(name_or_id)

    monkeypatch.setattr(world.runtime, "remove", fails)
    await recovered(world)
    assert world.runtime.removed == [jobs[1].container_name]
    assert world.recoveries.count("orphan_stayed") == 1
    assert world.recoveries.count("orphan_removed") == 1


async def test_dead_ones_with_much_on_disk_hold_up_no_round(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        job = await starting(world, status="exited")
        await failed(world, job)
    remove = world.runtime.remove

    async def slow(name_or_id: str) -> None:
        world.clock.advance(DEAD_SECONDS * 0.6)
        await remove(name_or_id)

    monkeypatch.setattr(world.runtime, "remove", slow)
    for gone in (2, 4, 5):
        world.supervisor.broke.clear()
        await recovered(world)
        assert len(world.runtime.removed) == gone
        assert world.supervisor.broke.is_set() is (gone < 5)  # the next round comes soon


async def test_what_a_removal_cut_short_left_is_removed(world: World) -> None:
    active = await starting(world, status="running")
    ended = await starting(world, status="running")
    await failed(world, ended)
    await world.runtime.remove(ended.container_name)
    lost = container_name("f" * 16)  # of no row at all
    world.runtime.left |= {ended.container_name, lost, "of-somebody-else"}
    await recovered(world)
    assert world.runtime.left == {"of-somebody-else"}
    assert active.container_name not in world.runtime.removed


async def test_recovery_removes_what_no_row_explains(world: World) -> None:
    job = await world.running()
    await world.crash()
    world.store = MemoryStore()
    world.boot()
    await recovered(world)
    assert world.runtime.removed == [job.container_name]


async def test_recovery_removes_the_container_of_an_ended_row(world: World) -> None:
    job = await starting(world, status="running")
    await failed(world, job)
    await recovered(world)
    assert world.runtime.removed == [job.container_name]


async def test_what_the_process_before_asked_for_is_looked_for_soon(world: World) -> None:
    """An engine that stood still may make it though its job ended long ago."""
    job = await starting(world, status=None)
    await failed(world, job)
    task = asyncio.create_task(world.recovery.run())
    await world.clock.until_sleeping()
    await world.runtime.create(spec_of(world, job))
    world.clock.advance(LATE_LOOK)
    await world.runtime.until(job.container_name, None)
    task.cancel()


async def test_a_container_without_a_row_has_a_minute_after_the_start(world: World) -> None:
    """``flashpods-admin validate`` makes such, often right after the API was restarted."""
    job = await world.accept()
    await failed(world, job)
    task = asyncio.create_task(world.recovery.run())
    await world.clock.until_sleeping()
    stranger = replace(spec_of(world, job), job_id="f" * 16, name=container_name("f" * 16))
    await world.runtime.create(stranger)
    await world.runtime.create(spec_of(world, job))  # and what the engine did late
    world.clock.advance(LATE_LOOK)
    await world.runtime.until(job.container_name, None)
    await world.clock.until_sleeping()
    assert world.runtime.removed == [job.container_name]
    world.clock.advance(60)
    await world.runtime.until(stranger.name, None)
    task.cancel()


async def test_a_job_that_never_ran_leaves_nothing_though_its_removal_came_late(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await starting(world, status="initialized")
    await world.artifacts.prepare(job.id)
    await world.store.request_cancel(job.id, at=world.clock.now())
    remove, calls = world.runtime.remove, 0

    async def second_fails(name_or_id: str) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise Unavailable("it did not answer in time")
        await remove(name_or_id)

    monkeypatch.setattr(world.runtime, "remove", second_fails)
    await recovered(world)
    await world.supervisor.idle()
    assert world.supervisor.broke.is_set()
    await recovered(world)
    assert await world.artifacts.staged() == []
    assert await world.workspaces.claimed() == []


async def test_a_leftover_that_stays_keeps_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tree that can't be deleted is the cleanup's; recovery has other things to do."""
    jobs = [await starting(world, status="running") for _ in range(2)]
    for job in jobs:
        await failed(world, job)
    stays = min(job.id for job in jobs)
    discard = world.workspaces.discard

    async def fails(job_id: str) -> None:
        if job_id == stays:
            raise PermissionError(13, "Permission denied")
        await discard(job_id)

    monkeypatch.setattr(world.workspaces, "discard", fails)
    await recovered(world)
    assert await world.workspaces.claimed() == [stays]
