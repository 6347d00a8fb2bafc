"""Progress notifications whose value strictly increases, as the protocol demands."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

__all__ = ["Progress"]

log = logging.getLogger(__name__)

Send = Callable[[float, float | None, str | None], Awaitable[None]]


class Progress:
    """Tells the client how far a call is; one that can't be told is no failure of the call."""

    def __init__(self, send: Send, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin at 0 seconds."""
        self._send = send
        self._clock = clock
        self._began = clock()
        self._last = 0.0
        self._muted = False

    def mute(self) -> None:
        """Tell no more: the call has returned."""
        self._muted = True

    async def tell(self, message: str, total: float | None = None) -> None:
        """Report the seconds since the beginning, of ``total`` seconds if they have an end."""
        if self._muted:
            return
        value = round(self._clock() - self._began, 3)
        if value <= self._last:
            value = round(self._last + 0.001, 3)
        self._last = value
        if total is not None and total < value:
            total = value
        with suppress(OSError, RuntimeError):
            await self._send(value, total, message[:500])

    @classmethod
    def of(cls, context: Any) -> Progress:
        """Return the progress of a tool call."""
        return cls(context.report_progress)
