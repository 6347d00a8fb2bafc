"""A clock that a test advances."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

START = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)


class ManualClock:
    """A :class:`flashpods.ports.Clock` that stands still until :meth:`advance`."""

    def __init__(self, at: datetime = START) -> None:
        self._now = at
        self._monotonic = 0.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []
        self._slept = asyncio.Event()

    def now(self) -> datetime:
        """Return the wall clock, aware UTC."""
        return self._now

    def monotonic(self) -> float:
        """Return seconds since the clock was made."""
        return self._monotonic

    async def sleep(self, seconds: float) -> None:
        """Wait until :meth:`advance` has gone that far."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._monotonic + seconds, future))
        self._slept.set()
        await future

    def advance(self, seconds: float) -> None:
        """Move time on and wake who has slept long enough, the earliest first."""
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds
        due = [sleeper for sleeper in self._sleepers if sleeper[0] <= self._monotonic]
        self._sleepers = [sleeper for sleeper in self._sleepers if sleeper[0] > self._monotonic]
        for _, future in sorted(due, key=lambda sleeper: sleeper[0]):
            if not future.done():
                future.set_result(None)

    @property
    def sleeping(self) -> int:
        """How many wait in :meth:`sleep`."""
        return sum(not future.done() for _, future in self._sleepers)

    async def until_sleeping(self, count: int = 1, timeout: float = 5.0) -> None:
        """Return once so many wait in :meth:`sleep`; TimeoutError after ``timeout`` (real) s."""
        async with asyncio.timeout(timeout):
            while self.sleeping < count:
                self._slept.clear()
                await self._slept.wait()
