"""Waiting for a job's next change."""

from __future__ import annotations

import asyncio

from flashpods.jobs.changes import InProcessChanges


async def test_all_who_wait_are_woken() -> None:
    changes = InProcessChanges()
    waits = [asyncio.create_task(changes.wait("a", 30)) for _ in range(2)]
    other = asyncio.create_task(changes.wait("b", 30))
    await asyncio.sleep(0)
    changes.publish("a")
    async with asyncio.timeout(10):
        await asyncio.gather(*waits)
    assert not other.done()
    other.cancel()


async def test_a_wait_that_is_over_leaves_nothing() -> None:
    """A job that has ended is never published again."""
    changes = InProcessChanges()
    await changes.wait("a", 0.001)
    given_up = asyncio.create_task(changes.wait("b", 30))
    await asyncio.sleep(0)
    assert len(changes) == 1
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)
    assert len(changes) == 0
