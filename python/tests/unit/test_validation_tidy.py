"""What is cleaned up is cleaned up, however often somebody interrupts."""

from __future__ import annotations

import asyncio

import pytest

from flashpods.admin.validation.tidy import to_its_end


async def test_a_cancellation_is_heard_after_the_end() -> None:
    begun, go = asyncio.Event(), asyncio.Event()
    done = []

    async def work() -> None:
        begun.set()
        await go.wait()
        done.append(True)

    task = asyncio.create_task(to_its_end(work()))
    await begun.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == [True]


async def test_an_error_is_the_callers() -> None:
    async def work() -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        await to_its_end(work())
