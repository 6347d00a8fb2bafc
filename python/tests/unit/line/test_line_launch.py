"""The launch: its slots and time, the image, limits that do not hold, an engine that is away."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from line_world import World, row_of

from flashpods.errors import InsufficientStorage
from flashpods.jobs.line import Policy
from flashpods.jobs.states import JobStatus
from flashpods.testing.runtime import Script


async def test_limits_that_do_not_hold_end_the_job_before_its_command(world: World) -> None:
    world.runtime.default = Script(enforced=False)
    job = await world.accept()
    world.supervisor.begin(job)
    row = await world.ended(job)
    assert (row.status, row.error) == (JobStatus.FAILED, "limits_not_enforced")
    assert await world.history(job) == ["pending", "starting", "failed"]


async def test_a_development_machine_may_do_without_limits_and_says_so(world: World) -> None:
    world.runtime.enforceable = False
    world.policy = Policy(allow_unenforced_limits=True)
    world.boot()
    world.runtime.default = Script(exits=0)
    job = await world.accept()
    world.supervisor.begin(job)
    row = await world.ended(job)
    assert row.status is JobStatus.COMPLETED
    assert "limits are not enforced" in row.warnings[0]


async def test_a_missing_image(world: World) -> None:
    job = await world.accept(image="nowhere/nothing:1")
    world.supervisor.begin(job)
    row = await world.ended(job)
    assert (row.status, row.error) == (JobStatus.FAILED, "image_not_found")
    tail = await world.logs.tail(job.id, 10)
    assert tail is not None
    assert "nowhere/nothing:1" in tail.output


async def test_a_pull_is_told_in_the_log(world: World) -> None:
    world.runtime.registry.add("some/thing:1")
    world.runtime.default = Script(exits=0)
    job = await world.accept(image="some/thing:1")
    world.supervisor.begin(job)
    assert (await world.ended(job)).status is JobStatus.COMPLETED
    tail = await world.logs.tail(job.id, 10)
    assert tail is not None
    assert "pull some/thing:1" in tail.output


async def test_a_slow_pull_holds_up_no_other_launch(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.policy = Policy(launch_slots=1)
    world.boot()
    pulling = asyncio.Event()
    real = world.runtime.ensure_image

    async def slow(image: str, progress: Any) -> None:
        if image == "slow/image:1":
            await progress("Trying to pull slow/image:1...")
            pulling.set()
            await asyncio.Event().wait()
        await real(image, progress)

    monkeypatch.setattr(world.runtime, "ensure_image", slow)
    world.supervisor.begin(await world.accept(image="slow/image:1"))
    await asyncio.wait_for(pulling.wait(), 60)
    other = await world.running()
    assert other.status is JobStatus.RUNNING


async def test_a_job_without_a_launch_slot_is_pending(world: World) -> None:
    world.policy = Policy(launch_slots=1)
    world.boot()
    world.runtime.set_up(False)
    first, second = await world.accept(), await world.accept()
    for job in (first, second):
        world.supervisor.begin(job)
    await world.until(first, JobStatus.STARTING)
    await world.clock.until_sleeping()
    assert (await row_of(world, second)).status is JobStatus.PENDING
    await world.supervisor.cancel(second.id)


@pytest.mark.parametrize("pulling", [False, True])
async def test_stuck_in_starting(
    world: World, monkeypatch: pytest.MonkeyPatch, *, pulling: bool
) -> None:
    world.policy = Policy(starting=0.5)
    world.boot()

    async def never(image: str, progress: Any) -> None:
        if pulling:
            await progress(f"Trying to pull {image}...")
        await asyncio.Event().wait()

    monkeypatch.setattr(world.runtime, "ensure_image", never)
    job = await world.accept()
    world.supervisor.begin(job)
    row = await world.ended(job)
    assert (row.status, row.error) == (JobStatus.FAILED, "stuck_in_starting")
    why = (await world.store.events(job.id))[-1].why
    assert (f"the image {job.image} is still on its way" in why) is pulling


async def test_an_engine_that_is_away_for_a_while_is_waited_for(world: World) -> None:
    world.runtime.set_up(False)
    world.runtime.default = Script(exits=0)
    job = await world.accept()
    world.supervisor.begin(job)
    await world.clock.until_sleeping()
    world.runtime.set_up(True)
    world.clock.advance(1)
    assert (await world.ended(job)).status is JobStatus.COMPLETED
    assert world.runtime.created == [job.container_name]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(28, "No space left on device"), "insufficient_storage"),
        (InsufficientStorage("full"), "insufficient_storage"),
        (PermissionError(13, "Permission denied"), "launch_failed"),
    ],
)
async def test_a_disk_that_refuses_ends_the_job_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception, code: str
) -> None:
    async def refuse(*_args: object) -> None:
        raise error

    monkeypatch.setattr(world.artifacts, "prepare", refuse)
    job = await world.accept()
    world.supervisor.begin(job)
    row = await world.ended(job)
    assert (row.status, row.error) == (JobStatus.FAILED, code)
