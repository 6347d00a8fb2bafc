"""Calls that must not meet, those that nobody waits for any more included.

A stopped engine does what it was sent once it goes on, all at once. So a call whose caller's time
is up is not broken off: it keeps its turn until it is answered, or its connection ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from flashpods.errors import Unavailable

T = TypeVar("T")


class Turns(Generic[T]):
    """Makes one call at a time."""

    def __init__(self, seconds: float) -> None:
        """Set the seconds that a caller waits, for its turn and the answer together."""
        self._seconds = seconds
        self._turn = asyncio.Lock()
        self._under_way: set[asyncio.Task[T]] = set()

    async def take(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Make the call in its turn.

        Raises:
            Unavailable: the time is up. The call is under way, or was not made at all.
        """
        try:
            async with asyncio.timeout(self._seconds):
                await self._turn.acquire()
                task = asyncio.create_task(call())
                self._under_way.add(task)
                task.add_done_callback(self._over)
                return await asyncio.shield(task)
        except TimeoutError:
            raise Unavailable(
                f"Podman did not make a container within {self._seconds:g} s; is it overloaded?"
            ) from None

    async def close(self) -> None:
        """Break off what is under way."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    def _over(self, task: asyncio.Task[T]) -> None:
        self._under_way.discard(task)
        self._turn.release()
        if not task.cancelled():
            task.exception()  # its caller may be gone, and nobody else asks for it
