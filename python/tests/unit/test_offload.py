"""Work on trees has threads of its own, and a deadline from when it is asked for."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable

import pytest

from flashpods.adapters.files import offload
from flashpods.adapters.files.offload import THREADS, in_thread
from flashpods.errors import Unavailable

DEFAULT_THREADS = min(32, (os.cpu_count() or 1) + 4)  # of asyncio's own pool, as Python documents


async def test_it_keeps_nobody_waiting_who_reads() -> None:
    go_on = threading.Event()

    def work(guard: Callable[[], None]) -> None:
        go_on.wait(30)

    many = [asyncio.create_task(in_thread(60, work)) for _ in range(THREADS + DEFAULT_THREADS)]
    try:
        await asyncio.sleep(0)  # all of it is queued
        async with asyncio.timeout(20):
            assert await asyncio.to_thread(lambda: "read") == "read"
        assert not any(task.done() for task in many)
    finally:
        go_on.set()
        await asyncio.gather(*many)


async def test_a_wait_for_a_thread_counts() -> None:
    go_on = threading.Event()
    done = []

    def hang(guard: Callable[[], None]) -> None:
        go_on.wait(30)

    def late(guard: Callable[[], None]) -> None:
        guard()
        done.append("late")

    others = [asyncio.create_task(in_thread(60, hang)) for _ in range(THREADS)]
    waiting = asyncio.create_task(in_thread(0.01, late))
    await asyncio.sleep(0.05)
    go_on.set()
    with pytest.raises(Unavailable):
        await waiting
    await asyncio.gather(*others)
    assert done == []


async def test_nobody_waits_for_a_thread_longer_than_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offload, "SLACK_SECONDS", 0.01)
    go_on = threading.Event()
    begun: list[str] = []

    def hang(guard: Callable[[], None]) -> None:
        go_on.wait(30)

    others = [asyncio.create_task(in_thread(60, hang)) for _ in range(THREADS)]
    try:
        await asyncio.sleep(0)  # they have the threads
        async with asyncio.timeout(20):
            with pytest.raises(Unavailable):
                await in_thread(0.01, lambda guard: begun.append("late"))
    finally:
        go_on.set()
        await asyncio.gather(*others)
    assert begun == []
