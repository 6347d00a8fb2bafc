"""What ends a job for its disk use: the rules, and when the watch looks."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from flashpods.errors import Unavailable
from flashpods.jobs.disk import (
    BUDGET,
    FAILURES,
    FIRST_SECONDS,
    GUARD_PAUSE,
    HOST,
    LOOK_SECONDS,
    PAUSE_LEAST,
    PAUSE_MOST,
    Budget,
    DiskWatch,
    Excess,
    offender,
)
from flashpods.ports import DiskFill, DiskUse
from flashpods.testing.clock import ManualClock
from flashpods.testing.files import FakeDiskMeter
from flashpods.testing.rows import running_row
from flashpods.testing.runtime import MemoryRuntime, simple_spec

GIB = 1024**3
START = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)


def use(size: int, entries: int = 1, device: int = 1) -> DiskUse:
    return DiskUse(where={device: size}, entries=entries)


def fill(used: int, total: int = 100, files: tuple[int, int] = (0, 0)) -> DiskFill:
    return DiskFill(
        bytes_used=used, bytes_total=total, entries_used=files[0], entries_total=files[1]
    )


# ------------------------------------------------------------------ rules


@pytest.mark.parametrize(
    ("held", "error"),
    [
        (use(10), None),
        (use(11), BUDGET),
        (use(0, entries=5), None),
        (use(0, entries=6), BUDGET),
        (DiskUse(where={1: 6, 2: 5}, entries=0), BUDGET),
    ],
)
def test_the_budget_is_of_all_disks_together(held: DiskUse, error: str | None) -> None:
    found = Budget(bytes=10, entries=5, guard=1).excess(held)
    assert (found.error if found else None) == error


def test_what_a_row_remembers_is_what_was_noted() -> None:
    excess = Excess(error=BUDGET, why="it holds 3 GiB: too much")
    assert Excess.noted(["limits are not enforced: cpus", excess.warning]) == excess
    assert Excess.noted(["disk_limit_exceeded", "artifacts: x"]) is None


@pytest.mark.parametrize(
    ("fills", "uses", "chosen"),
    [
        ({1: fill(91)}, {"a": use(50)}, None),
        ({1: fill(92)}, {"a": use(50), "b": use(51)}, "b"),
        ({1: fill(92)}, {"a": use(0)}, None),  # its end would free nothing
        ({1: fill(92)}, {}, None),
        ({1: fill(10), 2: fill(99)}, {"a": use(50), "b": use(2, device=2)}, "b"),
        ({1: fill(10, files=(99, 100))}, {"a": use(50)}, "a"),
        ({1: fill(99)}, {"a": use(50, device=2)}, None),
    ],
)
def test_who_holds_most_of_the_full_disk_goes(
    fills: dict[int, DiskFill], uses: dict[str, DiskUse], chosen: str | None
) -> None:
    assert offender(0.92, fills, uses) == chosen


@pytest.mark.parametrize(
    ("uses", "doubts", "chosen"),
    [
        ({"a": use(0), "b": use(5)}, {"a": 60}, "a"),  # 55 are nobody's else
        ({"a": use(0), "b": use(50)}, {"a": 60}, "b"),  # only 10 are
        ({"a": use(0), "b": use(5)}, {"a": math.inf}, "a"),
        ({"a": use(0)}, {"a": 0.5}, None),
        ({"a": use(3), "b": use(2)}, {"a": 0, "b": 0}, "a"),  # what was counted counts
        ({"a": use(1), "b": use(2, device=2)}, {"a": math.inf}, "a"),
    ],
)
def test_who_cannot_be_measured_counts_for_what_no_other_explains(
    uses: dict[str, DiskUse], doubts: dict[str, float], chosen: str | None
) -> None:
    assert offender(0.92, {1: fill(95)}, uses, doubts) == chosen


# ------------------------------------------------------------------ the watch


class World:
    """A watch over an engine and a disk in memory."""

    def __init__(self) -> None:
        self.clock = ManualClock(START)
        self.meter = FakeDiskMeter(total=100 * GIB)
        self.runtime = MemoryRuntime(now=self.clock.now)
        budget = Budget(bytes=10 * GIB, entries=50_000, guard=0.92)
        self.watch = DiskWatch(self.meter, self.runtime, self.clock, budget)
        self.tasks: dict[str, asyncio.Task[Excess]] = {}

    async def begin(self, letter: str) -> str:
        job_id = letter * 16
        container = await self.runtime.create(simple_spec(job_id))
        await self.runtime.start(container)
        task = asyncio.create_task(
            self.watch.exceeded(running_row(job_id, at=self.clock.now()), container)
        )
        self.tasks[job_id] = task
        await asyncio.sleep(0)  # it is watched from here on
        return job_id

    def gain(self, size: int, entries: int = 0) -> None:
        self.meter.fill = replace(
            self.meter.fill,
            bytes_used=self.meter.fill.bytes_used + size,
            entries_used=self.meter.fill.entries_used + entries,
        )

    async def excess(self, job_id: str) -> Excess:
        async with asyncio.timeout(30):
            return await self.tasks[job_id]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    for task in world.tasks.values():
        task.cancel()
    await asyncio.gather(*world.tasks.values(), return_exceptions=True)


async def test_a_short_job_is_never_measured(world: World) -> None:
    await world.begin("a")
    assert await world.watch.look() == PAUSE_MOST
    world.clock.advance(FIRST_SECONDS)
    await world.watch.look()
    assert world.meter.measured == []


async def test_a_job_is_measured_now_and_then(world: World) -> None:
    job_id = await world.begin("a")
    world.clock.advance(FIRST_SECONDS + 0.1)
    await world.watch.look()
    assert world.meter.measured == [job_id]
    world.clock.advance(LOOK_SECONDS - 1)
    await world.watch.look()
    assert world.meter.measured == [job_id]
    world.clock.advance(1.1)
    await world.watch.look()
    assert world.meter.measured == [job_id, job_id]


async def test_it_is_measured_at_once_when_the_disk_gained_what_it_may_hold(world: World) -> None:
    job_id = await world.begin("a")
    await world.watch.look()
    world.gain(10 * GIB + 1)
    world.meter.uses[job_id] = use(11 * GIB)
    world.clock.advance(0.1)
    await world.watch.look()
    excess = await world.excess(job_id)
    assert (excess.error, "11.00 GiB" in excess.why) == (BUDGET, True)


async def test_what_another_wrote_ends_nobody(world: World) -> None:
    job_id = await world.begin("a")
    await world.watch.look()
    world.gain(50 * GIB)
    world.clock.advance(0.1)
    await world.watch.look()
    assert world.meter.measured == [job_id]
    assert not world.tasks[job_id].done()
    world.clock.advance(0.1)
    await world.watch.look()
    assert world.meter.measured == [job_id], "the bound starts anew from what was measured"


async def test_what_others_free_meanwhile_hides_only_one_look(world: World) -> None:
    job_id = await world.begin("a")
    for _ in range(3):
        await world.watch.look()
        world.gain(4 * GIB)
        world.clock.advance(0.1)
        await world.watch.look()
        world.gain(-4 * GIB)
    world.clock.advance(0.1)
    await world.watch.look()
    assert world.meter.measured == [job_id]


async def test_inodes_count_as_bytes_do(world: World) -> None:
    job_id = await world.begin("a")
    await world.watch.look()
    world.gain(0, entries=50_001)
    world.meter.uses[job_id] = use(0, entries=50_001)
    world.clock.advance(0.1)
    await world.watch.look()
    assert (await world.excess(job_id)).error == BUDGET


async def test_the_nearer_the_budget_the_sooner_the_next_look(world: World) -> None:
    await world.begin("a")
    await world.watch.look()
    world.gain(10 * GIB - 1)
    assert await world.watch.look() == PAUSE_LEAST


async def test_a_full_host_ends_one_job_and_looks_whether_that_helped(world: World) -> None:
    small, big, other = [await world.begin(letter) for letter in "abc"]
    world.meter.uses = {small: use(2 * GIB), big: use(5 * GIB), other: use(4 * GIB)}
    await world.watch.look()
    world.gain(95 * GIB)
    world.clock.advance(0.1)
    await world.watch.look()
    assert (await world.excess(big)).error == HOST
    world.clock.advance(0.1)
    await world.watch.look()
    assert not world.tasks[other].done(), "what the first one held is not freed yet"
    world.clock.advance(GUARD_PAUSE)
    await world.watch.look()
    assert (await world.excess(other)).error == HOST
    assert not world.tasks[small].done()


async def test_an_unmeasurable_job_is_left_running_and_tried_again(world: World) -> None:
    job_id = await world.begin("a")
    world.meter.fail_with = Unavailable("no")
    world.clock.advance(FIRST_SECONDS + 0.1)
    await world.watch.look()
    world.meter.fail_with = None
    world.meter.uses[job_id] = use(11 * GIB)
    world.clock.advance(LOOK_SECONDS * 4)
    await world.watch.look()
    assert (await world.excess(job_id)).error == BUDGET


def part(size: int, entries: int = 1) -> DiskUse:
    return DiskUse(where={1: size}, entries=entries, whole=False)


async def test_what_was_counted_in_time_counts_for_the_limit(world: World) -> None:
    job_id = await world.begin("a")
    world.meter.uses[job_id] = part(11 * GIB)
    world.clock.advance(FIRST_SECONDS + 0.1)
    await world.watch.look()
    excess = await world.excess(job_id)
    assert (excess.error, "at least 11.00 GiB" in excess.why) == (BUDGET, True)


async def test_who_cannot_be_walked_in_time_goes_for_the_host_not_an_innocent(
    world: World,
) -> None:
    slow, innocent = [await world.begin(letter) for letter in "ab"]
    world.meter.uses = {slow: part(GIB), innocent: use(2 * GIB)}
    await world.watch.look()
    world.gain(95 * GIB)
    world.clock.advance(0.1)
    await world.watch.look()
    excess = await world.excess(slow)
    assert (excess.error, "of this one 1.00 GiB" in excess.why) == (HOST, True)
    assert not world.tasks[innocent].done()


async def test_who_holds_what_the_disk_gained_goes_not_who_cannot_be_walked(world: World) -> None:
    slow, writer = [await world.begin(letter) for letter in "ab"]
    world.meter.uses = {slow: part(GIB), writer: use(9 * GIB)}
    world.meter.fill = fill(85 * GIB, 100 * GIB)
    await world.watch.look()
    world.gain(10 * GIB)
    world.clock.advance(0.1)
    await world.watch.look()
    assert (await world.excess(writer)).error == HOST
    assert not world.tasks[slow].done()


async def test_one_whose_measuring_fails_again_and_again_goes_for_the_host(world: World) -> None:
    job_id = await world.begin("a")
    world.meter.fail_with = Unavailable("the walk took too long")
    await world.watch.look()
    world.gain(95 * GIB)
    for _ in range(FAILURES):
        assert not world.tasks[job_id].done()
        world.clock.advance(GUARD_PAUSE + 0.1)
        await world.watch.look()
        await asyncio.sleep(0)
    assert (await world.excess(job_id)).error == HOST


async def test_a_job_found_at_start_is_measured_at_once(world: World) -> None:
    container = await world.runtime.create(simple_spec("a" * 16))
    await world.runtime.start(container)
    found = running_row("a" * 16, at=world.clock.now())
    world.clock.advance(60)
    world.tasks[found.id] = asyncio.create_task(world.watch.exceeded(found, container))
    await asyncio.sleep(0)
    await world.watch.look()
    assert world.meter.measured == [found.id]


async def test_the_loop_goes_on_after_a_defect(world: World) -> None:
    job_id = await world.begin("a")
    world.meter.fail_with = RuntimeError("defect")
    world.clock.advance(FIRST_SECONDS + 0.1)
    loop = asyncio.create_task(world.watch.run())
    try:
        await world.clock.until_sleeping()
        world.meter.fail_with = None
        world.meter.uses[job_id] = use(11 * GIB)
        world.clock.advance(LOOK_SECONDS)
        assert (await world.excess(job_id)).error == BUDGET
    finally:
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)
