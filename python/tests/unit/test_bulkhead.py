"""Places for so many at once: who gets none in time is turned away, and takes none with it."""

from __future__ import annotations

import asyncio

import pytest

from flashpods.bulkhead import Bulkhead
from flashpods.errors import Unavailable

FOREVER = 3600.0


async def test_no_more_than_there_are_places() -> None:
    bulkhead = Bulkhead(2, seconds=FOREVER, work="others are at it")
    at_it = most = 0

    async def work() -> None:
        nonlocal at_it, most
        async with bulkhead.place():
            at_it += 1
            most = max(most, at_it)
            await asyncio.sleep(0)
            at_it -= 1

    async with asyncio.timeout(30):
        await asyncio.gather(*(work() for _ in range(20)))
    assert (at_it, most) == (0, 2)


async def test_who_waits_too_long_is_told_when_to_come_again() -> None:
    bulkhead = Bulkhead(1, seconds=0.01, work="others are at it")
    async with asyncio.timeout(30), bulkhead.place():
        with pytest.raises(Unavailable, match=r"within 0\.01 s: others are at it; send .* again"):
            async with bulkhead.place():
                pytest.fail("two at once")
    async with bulkhead.place():  # who was turned away has left no trace
        pass


async def test_the_bound_is_on_the_wait_alone() -> None:
    bulkhead = Bulkhead(1, seconds=0.01, work="others are at it")
    async with bulkhead.place():
        await asyncio.sleep(0.05)  # longer than one may wait


@pytest.mark.parametrize("how", ["cancelled", "failed"])
async def test_a_place_comes_free_however_its_holder_ends(how: str) -> None:
    bulkhead = Bulkhead(1, seconds=FOREVER, work="others are at it")
    has_it = asyncio.Event()

    async def hold() -> None:
        async with bulkhead.place():
            has_it.set()
            if how == "failed":
                raise KeyError("work")
            await asyncio.Event().wait()

    async with asyncio.timeout(30):
        holder = asyncio.create_task(hold())
        await has_it.wait()
        holder.cancel()
        await asyncio.gather(holder, return_exceptions=True)
        async with bulkhead.place():
            pass


async def test_one_that_gives_up_waiting_takes_no_place_with_it() -> None:
    bulkhead = Bulkhead(1, seconds=FOREVER, work="others are at it")

    async def once() -> None:
        async with bulkhead.place():
            pass

    async with asyncio.timeout(30):
        async with bulkhead.place():
            gone, stays = (asyncio.create_task(once()) for _ in range(2))
            await asyncio.sleep(0)
            gone.cancel()
        await stays
        await once()
