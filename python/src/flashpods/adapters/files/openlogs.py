"""The logs read last, still open: opening one takes as long as half of the rest of a tail.

For one thread, that of the event loop. A log is written in place and its name never used again, so
a descriptor is never one of another log. One that another process deletes is seen, and holds its
space, for :data:`KEPT_SECONDS` more.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

READ: Final = os.O_RDONLY | os.O_CLOEXEC
KEPT_SECONDS: Final = 2.0
MOST: Final = 16

_T = TypeVar("_T")


class OpenLogs:
    """Descriptors by the name of the log, :data:`MOST` at once, all closed every two seconds."""

    def __init__(self, directory: Path) -> None:
        self._directory = str(directory)  # pathlib would take a tenth of a whole tail
        self._open: dict[str, int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def get(self, name: str) -> int | None:
        """Return a descriptor that is good until this task waits; None if there is no such log.

        Raises OSError: it can't be opened.
        """
        known = self._open.get(name)
        return self._opened(name) if known is None else known

    def close(self, name: str) -> None:
        """Close this one, if it is open."""
        fd = self._open.pop(name, None)
        if fd is not None:
            os.close(fd)

    def close_all(self) -> None:
        """Close all; they may be read again."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        while self._open:
            os.close(self._open.popitem()[1])

    def _opened(self, name: str) -> int | None:
        if len(self._open) >= MOST:
            self.close_all()
        try:
            fd = os.open(f"{self._directory}/{name}", READ)
        except FileNotFoundError:
            return None
        self._open[name] = fd
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(KEPT_SECONDS, self.close_all)
        return fd


def read_apart(log: Path, read: Callable[[int], _T]) -> _T | None:
    """Read by a descriptor of its own, for a thread: nobody closes it meanwhile.

    None if there is no such log. Raises OSError.
    """
    try:
        fd = os.open(log, READ)
    except FileNotFoundError:
        return None
    try:
        return read(fd)
    finally:
        os.close(fd)
