"""A bound on how many do something at once, and on how long the others wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from flashpods.errors import Unavailable

RETRY_SECONDS: Final = "5"  # who was turned away has waited longer than that already


class Bulkhead:
    """Places for so many at once; who gets none in time is turned away, having changed nothing."""

    def __init__(self, places: int, *, seconds: float, work: str) -> None:
        """Set the bounds.

        Args:
            places: how many may be at it at once.
            seconds: how long one waits for a place; the work itself has a deadline of its own.
            work: what they do, for the message: "other uploads are being finalized".
        """
        self._places = asyncio.Semaphore(places)
        self._seconds = seconds
        self._work = work

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Hold a place within the context.

        Raises:
            Unavailable: none was free in time.
        """
        try:
            async with asyncio.timeout(self._seconds):
                await self._places.acquire()
        except TimeoutError:
            raise Unavailable(
                f"no turn within {self._seconds:g} s: {self._work}; send the request again",
                headers={"Retry-After": RETRY_SECONDS},
            ) from None
        try:
            yield
        finally:
            self._places.release()
