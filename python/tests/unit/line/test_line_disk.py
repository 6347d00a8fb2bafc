"""A job over its disk budget is killed, also when it left no room to write that down."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from line_world import World, full_disk

from flashpods.jobs.disk import FIRST_SECONDS
from flashpods.jobs.model import (
    Job,
    Note,
)
from flashpods.jobs.states import JobStatus
from flashpods.ports import DiskUse
from flashpods.testing.runtime import Script


async def over_its_budget(world: World, job: Job) -> None:
    world.meter.uses[job.id] = DiskUse(where={1: 2**30 + 1}, entries=1)
    async with asyncio.timeout(30):
        while not world.disk.has(job.id):
            await world.changes.wait(job.id, 0.02)
    world.clock.advance(FIRST_SECONDS + 0.1)
    await world.disk.look()


@pytest.mark.parametrize(
    ("refused", "until_emptied"),
    [((), False), (("note",), False), (("note", "advance"), True)],
    ids=["room", "none_for_why", "none_before_it_is_emptied"],
)
async def test_a_job_over_its_disk_budget_is_killed_without_grace(
    world: World, monkeypatch: pytest.MonkeyPatch, refused: tuple[str, ...], until_emptied: bool
) -> None:
    """Also one that filled the database's disk, which takes nothing while its files are there."""
    world.runtime.default = Script(ignores_sigterm=True)
    neighbour = await world.running()
    job = await world.running()
    full_disk(world, monkeypatch, *refused, until_emptied=job if until_emptied else None)
    await over_its_budget(world, job)
    await world.runtime.until(job.container_name, None)
    row = await world.until(job, JobStatus.FAILED)
    assert (row.exit_code, row.error) == (137, "disk_limit_exceeded")
    assert world.runtime.emptied == [job.container_name]
    told = ["the limit is 1.00 GiB" in warning for warning in row.warnings]
    assert told == ([] if refused else [True])
    row = await world.until(neighbour, JobStatus.RUNNING)
    assert world.runtime.signals(neighbour.container_name) == []
    world.runtime.exit(neighbour.container_name, 0)
    assert (await world.ended(neighbour)).status is JobStatus.COMPLETED


async def test_who_fills_the_disk_and_ends_by_itself_makes_room_too(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await world.running()
    world.meter.fill = replace(world.meter.fill, bytes_used=world.meter.fill.bytes_total)
    full_disk(world, monkeypatch, "note", "advance", until_emptied=job)
    world.runtime.exit(job.container_name, 3)
    row = await world.until(job, JobStatus.FAILED)
    assert (row.exit_code, row.error) == (3, None)


async def test_on_a_disk_with_room_nothing_is_emptied(world: World) -> None:
    job = await world.running()
    world.runtime.exit(job.container_name, 3)
    await world.until(job, JobStatus.FAILED)
    assert world.runtime.emptied == []


async def test_an_engine_without_room_to_note_a_death_gets_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await world.running()

    async def unnoticed(_container_id: str, _signal: str) -> None:
        """It is dead, and the engine says running."""

    async def room(name: str) -> None:
        world.runtime.exit(name, 137)

    monkeypatch.setattr(world.runtime, "kill", unnoticed)
    monkeypatch.setattr(world.runtime, "empty", room)
    await over_its_budget(world, job)
    async with asyncio.timeout(30):
        while (row := await world.store.get(job.id)) is not None and row.active:
            world.clock.advance(world.policy.grace)
            await world.changes.wait(job.id, 0.02)
    assert row is not None
    assert (row.exit_code, row.error) == (137, "disk_limit_exceeded")


async def test_why_it_was_killed_outlives_a_crash_right_after_the_kill(world: World) -> None:
    job = await world.running()
    await world.supervisor.close()
    noted = "disk_limit_exceeded: it holds 3.00 GiB on disk, the limit is 1.00 GiB"
    await world.store.note(job.id, Note(warnings=(noted,)))
    world.runtime.exit(job.container_name, 137)
    world.boot()
    await world.recovery.run_once()
    row = await world.ended(job)
    assert (row.exit_code, row.error) == (137, "disk_limit_exceeded")
    assert world.runtime.emptied == [job.container_name]


async def test_a_cancellation_wins_over_the_disk(world: World) -> None:
    job = await world.running()
    await world.supervisor.close()
    await world.store.request_cancel(job.id, at=world.clock.now())
    await world.store.note(job.id, Note(warnings=("disk_limit_exceeded: x",)))
    world.runtime.exit(job.container_name, 137)
    world.boot()
    await world.recovery.run_once()
    assert (await world.ended(job)).status is JobStatus.CANCELLED
