"""A store, a log or a line that fails once: it is tried again, and no other job waits for it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from line_world import World, failed, recovered, row_of

from flashpods.errors import Unavailable
from flashpods.jobs.model import Grant, Job
from flashpods.jobs.recovery import LOG_COMPLETE, LOG_SOON
from flashpods.jobs.states import JobStatus
from flashpods.ports import DRAIN_TRIES


async def test_a_log_that_cannot_be_completed_ends_the_job_and_is_completed_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    async def refuse(job_id: str, *, tries: int = DRAIN_TRIES) -> None:
        tried.append((job_id, tries))
        raise OSError(28, "No space left on device")

    job = await world.running()
    other = await world.running(grant=Grant(cpus=1, memory_gb=1, timeout_minutes=600))
    for each in (job, other):
        await world.logs.feed(each.id, b"2026-11-24T09:31:26.123456789+00:00 stdout F one\n")
    with monkeypatch.context() as patch:
        patch.setattr(world.logs, "drain", refuse)
        world.runtime.exit(job.container_name, 0)
        row = await world.until(job, JobStatus.COMPLETED)
        async with asyncio.timeout(30):
            await world.supervisor.broke.wait()
        why = "the log is incomplete until its disk takes the rest: No space left on device"
        assert why in row.warnings
        for soon in (True, True, False):
            world.supervisor.broke.clear()
            await recovered(world)
            assert world.supervisor.broke.is_set() is soon
            world.clock.advance(LOG_SOON.total_seconds() / 2)
        await world.recovery.run_once(strangers=False)  # the look between two rounds
    assert tried == [(job.id, DRAIN_TRIES), *3 * [(job.id, 1)]]  # not the one that runs
    await recovered(world)
    assert await world.logs.undrained() == [other.id]
    assert (await row_of(world, job)).warnings[-1] == LOG_COMPLETE


async def test_a_log_that_is_broken_keeps_no_other_from_being_completed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = []
    for _ in range(2):
        job = await world.accept()
        await world.logs.feed(job.id, b"2026-11-24T09:31:26.123456789+00:00 stdout F one\n")
        await failed(world, job)
        left.append(job.id)
    real = world.logs.drain
    broken = min(left)

    async def drain(job_id: str, *, tries: int = DRAIN_TRIES) -> None:
        if job_id == broken:
            raise ValueError("no place")
        await real(job_id, tries=tries)

    monkeypatch.setattr(world.logs, "drain", drain)
    await recovered(world)
    assert await world.logs.undrained() == [broken]

    async def refuse() -> list[str]:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(world.logs, "undrained", refuse)
    await recovered(world)  # nor does a list that can't be had stop a round


async def test_a_store_that_is_away_for_a_moment_is_asked_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await world.running()
    real = world.store.advance
    calls = 0

    async def flaky(*args: Any, **keywords: Any) -> Job:
        nonlocal calls
        calls += 1
        moved = await real(*args, **keywords) if calls == 2 else None
        if calls <= 2:
            raise Unavailable("the answer was lost")
        assert moved is None
        return await real(*args, **keywords)

    monkeypatch.setattr(world.store, "advance", flaky)
    world.runtime.exit(job.container_name, 0)
    async with asyncio.timeout(30):
        while world.supervisor.has(job.id):
            await world.changes.wait(job.id, 0.02)
            world.clock.advance(1)
    assert (await world.ended(job)).status is JobStatus.COMPLETED
    assert await world.history(job) == ["pending", "starting", "running", "completed"]


async def test_a_log_that_cannot_be_followed_keeps_nobody_from_ending_the_job(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    follow = world.logs.follow

    async def refuse(job_id: str) -> None:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise OSError(28, "No space left on device")
        await follow(job_id)

    monkeypatch.setattr(world.logs, "follow", refuse)
    job = await world.running()
    for _ in range(2):
        await world.clock.until_sleeping(2)  # the job's deadline, and the next try
        world.clock.advance(2)
    async with asyncio.timeout(30):
        while calls < 3:
            await world.changes.wait(job.id, 0.01)
    calls = 0
    other = await world.running()
    await world.supervisor.cancel(other.id)
    assert (await world.until(other, JobStatus.CANCELLED)).exit_code == 143
    await world.supervisor.cancel(job.id)
    await world.ended(job)


async def test_a_line_that_breaks_is_begun_again_before_the_minute_is_over(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await world.until(await world.running(), JobStatus.RUNNING)
    advance, calls = world.store.advance, 0

    async def locked(*args: Any, **more: Any) -> Job:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("a defect of ours")
        return await advance(*args, **more)

    monkeypatch.setattr(world.store, "advance", locked)
    world.runtime.exit(job.container_name, 0)
    await world.supervisor.idle()
    await asyncio.wait_for(world.supervisor.broke.wait(), 60)
    await world.recovery.run_once()
    await world.supervisor.idle()
    assert (await row_of(world, job)).status is JobStatus.COMPLETED


async def test_a_line_that_is_cancelled_by_mistake_is_begun_again(world: World) -> None:
    job = await world.running()
    (task,) = (t for t in asyncio.all_tasks() if t.get_name() == f"job {job.id}")
    task.cancel()
    await asyncio.wait_for(world.supervisor.broke.wait(), 60)
    await world.recovery.run_once()
    assert world.supervisor.has(job.id)
    world.runtime.exit(job.container_name, 0)
    assert (await world.ended(job)).status is JobStatus.COMPLETED
