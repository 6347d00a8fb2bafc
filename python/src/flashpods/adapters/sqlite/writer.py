"""The one writer: a thread that takes what is queued and commits it as one transaction.

Group commit: while one transaction waits for the disk, the next one's operations queue up, so that
a hundred callers share one ``fdatasync``. Each operation runs in a savepoint of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeVar

from flashpods.adapters.sqlite.connection import breaks_batch, primary_code, translate
from flashpods.errors import Unavailable

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], T]

QUEUE_LIMIT: Final = 4096
BATCH_LIMIT: Final = 256
DEADLINE_SECONDS: Final = 15.0
_log = logging.getLogger(__name__)


class _Item:
    """An operation that waits for its turn, and where its result goes."""

    __slots__ = ("durable", "error", "future", "loop", "operation", "result")

    def __init__(
        self, operation: Operation[Any], loop: asyncio.AbstractEventLoop, *, durable: bool
    ) -> None:
        self.operation = operation
        self.durable = durable
        self.loop = loop
        self.future: asyncio.Future[Any] = loop.create_future()
        self.result: Any = None
        self.error: BaseException | None = None

    def settle(self) -> None:
        """Hand the result to the caller; runs on the caller's loop."""
        if self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


def _settle_all(items: list[_Item]) -> None:
    for item in items:
        item.settle()


class Writer:
    """A thread with the only connection that writes.

    Args:
        connect: opens that connection; called again after a fault of the database.
        deadline: seconds that a caller waits at most.
        queue_limit: operations that may wait; more are refused.
    """

    def __init__(
        self,
        connect: Callable[[], sqlite3.Connection],
        *,
        deadline: float = DEADLINE_SECONDS,
        queue_limit: int = QUEUE_LIMIT,
    ) -> None:
        self._connect = connect
        self._deadline = deadline
        self._queue_limit = queue_limit
        self._queue: deque[_Item] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._connection: sqlite3.Connection | None = None
        self._durable: bool | None = None  # what the connection's PRAGMA synchronous says
        self.doubtful = False  # the disk failed, and has not been proved to work since
        self._thread = threading.Thread(target=self._run, name="sqlite-writer", daemon=True)

    def start(self) -> None:
        """Open the connection and start the thread.

        Raises:
            sqlite3.Error: the database can't be opened.
        """
        self._connection = self._connect()
        self._thread.start()

    async def run(self, operation: Operation[T], *, durable: bool = False) -> T:
        """Run ``operation`` within a transaction; return its result once that is committed.

        Args:
            operation: gets the connection, in a transaction; what it raises undoes only itself and
                is raised here. It must not commit, and must not wait for anything else.
            durable: the commit is on the disk when this returns (``synchronous = FULL``).

        Raises:
            Unavailable: the queue is full, the database is locked or its disk fails, the store is
                closed, or the deadline passed; in the last case the change may yet be made.
            InsufficientStorage: the disk is full; nothing was changed.
        """
        loop = asyncio.get_running_loop()
        with self._wake:
            if self._closing:
                raise Unavailable("the database is being closed; try again after the restart")
            if len(self._queue) >= self._queue_limit:
                raise Unavailable(f"{self._queue_limit} writes are waiting; try again")
            item = _Item(operation, loop, durable=durable)
            self._queue.append(item)
            self._wake.notify()
        try:
            async with asyncio.timeout(self._deadline):
                result: T = await item.future
                return result
        except TimeoutError:
            raise Unavailable(
                f"the database did not answer within {self._deadline:g} s; ask again what happened"
            ) from None

    def close(self, timeout: float) -> bool:
        """Write what is queued, close the connection; blocks. Returns whether it got that far."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while batch := self._take():
            self._write(batch)
            loops = {item.loop for item in batch}
            for loop in loops:
                mine = [item for item in batch if item.loop is loop]
                with contextlib.suppress(RuntimeError):  # that loop is closed: nobody waits
                    loop.call_soon_threadsafe(_settle_all, mine)
        self._disconnect()

    def _take(self) -> list[_Item]:
        """Wait for operations; an empty list means that the writer is closed."""
        with self._wake:
            while not self._queue and not self._closing:
                self._wake.wait()
            count = min(len(self._queue), BATCH_LIMIT)
            return [self._queue.popleft() for _ in range(count)]

    def _write(self, batch: list[_Item]) -> None:
        # A caller that gave up while its operation was queued does not get it done behind its back.
        wanted = [item for item in batch if not item.future.cancelled()]
        if not wanted:
            return
        try:
            connection = self._begin(durable=any(item.durable for item in wanted))
            for item in wanted:
                _perform(connection, item)
            connection.execute("COMMIT")
        except (sqlite3.Error, Unavailable) as e:
            _log.exception("a transaction of %d operations failed", len(wanted))
            self._disconnect()  # closing rolls back; a connection that failed is not trusted
            error = e if isinstance(e, Unavailable) else translate(e)
            if isinstance(e, sqlite3.Error):
                error.__cause__ = e
                self.doubtful = self.doubtful or primary_code(e) == sqlite3.SQLITE_IOERR
            for item in wanted:
                item.error = error

    def _begin(self, *, durable: bool) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = self._connect()
            self._durable = None
        if self.doubtful:
            self._settle_doubt(self._connection)
        if self._durable is not durable:  # not allowed within a transaction
            level = "FULL" if durable else "NORMAL"
            self._connection.execute(f"PRAGMA synchronous = {level}")
            self._durable = durable
        self._connection.execute("BEGIN IMMEDIATE")
        return self._connection

    def _settle_doubt(self, connection: sqlite3.Connection) -> None:
        """After a failed fsync, write everything anew before anything else is acknowledged.

        The kernel reports a failed write-back once and then calls those pages clean: a later fsync
        succeeds though they never reached the disk. A commit behind such a gap in the WAL would be
        lost with it. So the WAL's content goes into the database file, and the WAL starts anew.
        """
        connection.execute("PRAGMA synchronous = FULL")
        self._durable = True
        busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise Unavailable("the database recovers from a failure of its disk; try again")
        # A page written as it is, and synced: the checkpoint may have had nothing to write.
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        connection.execute(f"PRAGMA user_version = {version}")
        self.doubtful = False

    def _disconnect(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):  # it is of no more use either way
                self._connection.close()
            self._connection = None


def _perform(connection: sqlite3.Connection, item: _Item) -> None:
    """Run one operation; raise only what makes the whole transaction worthless."""
    connection.execute("SAVEPOINT operation")
    try:
        item.result = item.operation(connection)
    except sqlite3.Error as e:
        if breaks_batch(e) or not connection.in_transaction:
            raise
        item.error = translate(e)
        item.error.__cause__ = e
    except Exception as e:  # noqa: BLE001 - whatever it is, it belongs to the caller
        item.error = e
    if item.error is not None:
        connection.execute("ROLLBACK TO operation")
    connection.execute("RELEASE operation")
