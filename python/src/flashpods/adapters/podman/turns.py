"""Calls that must not meet, those that nobody waits for any more included.

A stopped engine does what it was sent once it goes on, all at once. So a call whose caller's time
is up is not broken off: it keeps its turn until it is answered, or its connection ends. Other
processes of ours at the same engine (``flashpods-admin validate`` beside the API) take turns too.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from flashpods.errors import Unavailable

T = TypeVar("T")

LOOK: Final = 0.01  # seconds between looks whether another process has ended its turn
OTHERS_SECONDS: Final = 20.0  # then it is stopped, by a person at its terminal, and we go on


class Turns(Generic[T]):
    """Makes one call at a time."""

    def __init__(self, seconds: float, socket: Path) -> None:
        """Set the bounds.

        Args:
            seconds: how long a caller waits, for its turn and the answer together.
            socket: the engine's; the directory that it is in is what processes lock.
        """
        self._seconds = seconds
        self._socket = socket
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
                task = asyncio.create_task(self._alone(call))
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

    async def _alone(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        async with _locked(self._socket):
            return await call()

    def _over(self, task: asyncio.Task[T]) -> None:
        self._under_way.discard(task)
        self._turn.release()
        if not task.cancelled():
            task.exception()  # its caller may be gone, and nobody else asks for it


@asynccontextmanager
async def _locked(socket: Path) -> AsyncIterator[None]:
    """Hold the lock of all processes (flock(2)), which the kernel takes back when one dies."""
    try:
        directory = os.open(socket.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:  # then there is no engine to be called either
        yield
        return
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(OTHERS_SECONDS):
                while not _try_lock(directory):  # noqa: ASYNC110 - a lock of others has no event
                    await asyncio.sleep(LOOK)
        yield
    finally:
        os.close(directory)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
