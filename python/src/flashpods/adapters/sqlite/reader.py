"""Reads: by key on the event loop, lists in a few threads; both on read-only connections."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from flashpods.adapters.sqlite.connection import (
    READ_BUSY_SECONDS,
    connect_reader,
    primary_code,
    translate,
)
from flashpods.errors import Unavailable

T = TypeVar("T")
Query = Callable[[sqlite3.Connection], T]

THREADS: Final = 2
WAITING_LIMIT: Final = 512
INLINE_SECONDS: Final = 0.001
STEPS: Final = 100  # of SQLite's machine between two looks at the clock: some three rows of a list


class Reader:
    """Read-only connections to one database.

    Args:
        path: the database, which exists.
        deadline: seconds that a caller of :meth:`threaded` waits at most.
    """

    def __init__(self, path: Path, *, deadline: float) -> None:
        self._path = path
        self._deadline = deadline
        self._inline = connect_reader(path, busy_seconds=READ_BUSY_SECONDS)
        self._local = threading.local()
        self._opened: list[sqlite3.Connection] = [self._inline]
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="sqlite-reader")
        self._waiting = 0
        self._closed = False

    def inline(self, query: Query[T]) -> T:
        """Run a query by key on the calling thread: tens of microseconds.

        Raises:
            Unavailable: the database is locked for good, or its disk fails.
        """
        self._check_open()
        try:
            return query(self._inline)
        except sqlite3.Error as e:
            raise translate(e) from e

    async def adaptive(self, query: Query[T]) -> T:
        """Run a list inline for a millisecond; what is not done by then, again in a thread.

        Fifty rows of a warm database take some 150 µs, to which a thread would add half as much;
        a hundred rows with the longest contexts from a cold disk take a second.
        """
        self._check_open()
        enough = time.perf_counter() + INLINE_SECONDS
        self._inline.set_progress_handler(lambda: time.perf_counter() > enough, STEPS)
        try:
            return query(self._inline)
        except sqlite3.Error as e:
            if primary_code(e) != sqlite3.SQLITE_INTERRUPT:
                raise translate(e) from e
        finally:
            self._inline.set_progress_handler(None, 0)
        return await self.threaded(query)

    async def threaded(self, query: Query[T]) -> T:
        """Run a query that may read many rows, in a thread.

        Raises:
            Unavailable: too many callers wait, or the deadline passed.
        """
        self._check_open()
        if self._waiting >= WAITING_LIMIT:
            raise Unavailable(f"{WAITING_LIMIT} reads are waiting; try again")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._deadline):
                return await asyncio.get_running_loop().run_in_executor(
                    self._pool, self._query, query
                )
        except TimeoutError:
            raise Unavailable(
                f"the database did not answer within {self._deadline:g} s; try again"
            ) from None
        except sqlite3.Error as e:
            raise translate(e) from e
        finally:
            self._waiting -= 1

    def _query(self, query: Query[T]) -> T:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = connect_reader(self._path)
            self._local.connection = connection
            self._opened.append(connection)
        return query(connection)

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("the database is closed; try again after the restart")

    def close(self) -> None:
        """Wait for the queries at work, then close the connections; blocks."""
        self._closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)
        for connection in self._opened:
            with contextlib.suppress(sqlite3.Error):  # it is of no more use either way
                connection.close()
