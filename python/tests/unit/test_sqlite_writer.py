"""The one writer: groups, faults, bounds."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flashpods.adapters.sqlite import connection as connections
from flashpods.adapters.sqlite.connection import connect_writer, translate
from flashpods.adapters.sqlite.writer import Writer
from flashpods.errors import Conflict, InsufficientStorage, InternalError, Unavailable

BOUND = 60.0


class Faulty(sqlite3.Connection):
    """A connection that counts, and fails at a statement when told to."""

    fail_at: str | None = None
    fail_code = sqlite3.SQLITE_IOERR_FSYNC
    seen: list[str]

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        type(self).seen.append(sql)
        if type(self).fail_at == sql:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = type(self).fail_code
            raise error
        return super().execute(sql, *values)


@pytest.fixture
def faulty() -> type[Faulty]:
    class Mine(Faulty):
        seen: list[str] = []  # noqa: RUF012 - shared on purpose

    return Mine


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "w.db"
    with closing(sqlite3.connect(made)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, pad BLOB)")
    return made


@pytest.fixture
def writer(path: Path, faulty: type[Faulty]) -> Iterator[Writer]:
    def connect() -> sqlite3.Connection:
        return sqlite3.connect(
            path, timeout=0.05, isolation_level=None, check_same_thread=False, factory=faulty
        )

    made = Writer(connect, deadline=BOUND)
    made.start()
    yield made
    assert made.close(BOUND)


def put(n: int) -> Any:
    return lambda c: c.execute("INSERT INTO t (n) VALUES (?)", (n,)).rowcount


def stored(path: Path) -> list[int]:
    with closing(sqlite3.connect(path)) as connection:
        return [n for (n,) in connection.execute("SELECT n FROM t ORDER BY n")]


class Gate:
    """An operation that holds the writer, so that others queue behind it."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.leave = threading.Event()

    def __call__(self, connection: sqlite3.Connection) -> None:
        self.entered.set()
        assert self.leave.wait(BOUND)

    async def hold(self, writer: Writer) -> asyncio.Task[None]:
        task = asyncio.create_task(writer.run(self))
        assert await asyncio.to_thread(self.entered.wait, BOUND)
        return task


async def queued(writer: Writer, *calls: Any) -> list[asyncio.Task[Any]]:
    """Start the calls; they are queued once each task has had its first turn."""
    tasks = [asyncio.create_task(call) for call in calls]
    await asyncio.sleep(0)
    return tasks


async def test_what_waits_is_committed_as_one(
    writer: Writer, path: Path, faulty: type[Faulty]
) -> None:
    gate = Gate()
    held = await gate.hold(writer)
    faulty.seen.clear()
    tasks = await queued(writer, *(writer.run(put(n), durable=n == 7) for n in range(50)))
    gate.leave.set()
    assert await asyncio.gather(held, *tasks) == [None] + [1] * 50
    assert stored(path) == list(range(50))
    assert faulty.seen.count("COMMIT") == 2  # the gate's own, and one for all
    assert "PRAGMA synchronous = FULL" in faulty.seen


async def test_only_an_acknowledgement_waits_for_the_disk(
    writer: Writer, faulty: type[Faulty]
) -> None:
    await writer.run(put(1))
    await writer.run(put(2))
    await writer.run(put(3), durable=True)
    await writer.run(put(4))
    levels = [sql for sql in faulty.seen if "synchronous" in sql]
    assert [level.rpartition(" ")[2] for level in levels] == ["NORMAL", "FULL", "NORMAL"]


async def test_one_failing_operation_undoes_only_itself(writer: Writer, path: Path) -> None:
    def refuse(connection: sqlite3.Connection) -> None:
        put(100)(connection)
        raise Conflict("no")

    gate = Gate()
    held = await gate.hold(writer)
    tasks = await queued(
        writer,
        writer.run(put(1)),
        writer.run(refuse),
        writer.run(put(1)),
        writer.run(lambda c: c.execute("SELECT nonsense")),
        writer.run(lambda c: dict[str, int]()["missing"]),
        writer.run(put(2)),
    )
    gate.leave.set()
    await held
    results = await asyncio.gather(*tasks, return_exceptions=True)
    kinds = [type(r) for r in results]
    assert kinds == [int, Conflict, InternalError, InternalError, KeyError, int]
    assert stored(path) == [1, 2]


@pytest.mark.parametrize("statement", ["COMMIT", "BEGIN IMMEDIATE"])
async def test_a_disk_that_fails_acknowledges_nothing(
    writer: Writer, path: Path, faulty: type[Faulty], statement: str
) -> None:
    gate = Gate()
    held = await gate.hold(writer)
    tasks = await queued(writer, *(writer.run(put(n), durable=True) for n in range(5)))
    await asyncio.sleep(0)
    faulty.fail_at = statement
    gate.leave.set()
    if statement == "COMMIT":  # also the gate's own
        with pytest.raises(Unavailable):
            await held
    else:  # the gate has begun
        await held
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(r) for r in results] == [Unavailable] * 5
    assert stored(path) == []
    faulty.fail_at = None
    assert await writer.run(put(9)) == 1  # on a new connection
    assert stored(path) == [9]


async def test_a_full_disk_is_insufficient_storage(writer: Writer, path: Path) -> None:
    await writer.run(put(1))
    await writer.run(lambda c: c.execute("PRAGMA max_page_count = 10").fetchall())

    def fill(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO t (n, pad) VALUES (2, zeroblob(1000000))")

    with pytest.raises(InsufficientStorage) as caught:
        await writer.run(fill, durable=True)
    assert caught.value.code == "insufficient_storage"
    assert stored(path) == [1]
    assert await writer.run(put(3)) == 1


async def test_a_lock_that_stays_is_unavailable(writer: Writer, path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="locked"):
            await writer.run(put(1))
        other.execute("ROLLBACK")
    assert await writer.run(put(1)) == 1


async def test_a_full_queue_refuses(path: Path) -> None:
    writer = Writer(lambda: connect_writer(path), deadline=BOUND, queue_limit=3)
    writer.start()
    gate = Gate()
    held = await gate.hold(writer)
    tasks = await queued(writer, *(writer.run(put(n)) for n in range(5)))
    gate.leave.set()
    await held
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(r) for r in results] == [int, int, int, Unavailable, Unavailable]
    assert await asyncio.to_thread(writer.close, BOUND)
    assert stored(path) == [0, 1, 2]


async def test_a_caller_past_its_deadline_is_told_and_its_turn_is_dropped(path: Path) -> None:
    writer = Writer(lambda: connect_writer(path), deadline=BOUND)
    writer.start()
    for seconds in (0.05, 0.5, 5, 50):  # until it is at work in time on this machine
        writer._deadline = seconds
        gate = Gate()
        held = asyncio.create_task(writer.run(gate))
        if await asyncio.to_thread(gate.entered.wait, seconds):
            break
        gate.leave.set()
        await asyncio.gather(held, return_exceptions=True)
    writer._deadline = 0.05
    with pytest.raises(Unavailable, match=r"within 0\.05 s"):
        await writer.run(put(1))
    with pytest.raises(Unavailable):
        await held  # it is at work: its caller gave up, what it does is committed
    gate.leave.set()
    assert await asyncio.to_thread(writer.close, BOUND)
    assert stored(path) == []


async def test_a_cancelled_caller_is_not_served(writer: Writer, path: Path) -> None:
    gate = Gate()
    held = await gate.hold(writer)
    first, second = await queued(writer, writer.run(put(1)), writer.run(put(2)))
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    gate.leave.set()
    await asyncio.gather(held, second)
    assert stored(path) == [2]


async def test_close_writes_what_was_accepted_and_refuses_the_rest(path: Path) -> None:
    writer = Writer(lambda: connect_writer(path), deadline=BOUND)
    writer.start()
    gate = Gate()
    held = await gate.hold(writer)
    tasks = await queued(writer, *(writer.run(put(n)) for n in range(20)))
    closing_writer = asyncio.create_task(asyncio.to_thread(writer.close, BOUND))
    gate.leave.set()
    assert await closing_writer
    await asyncio.gather(held, *tasks)
    assert stored(path) == list(range(20))
    with pytest.raises(Unavailable, match="closed"):
        await writer.run(put(99))
    assert await asyncio.to_thread(writer.close, BOUND)


def error(code: int) -> sqlite3.Error:
    made = sqlite3.OperationalError("x")
    made.sqlite_errorcode = code
    return made


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_FULL, InsufficientStorage),
        (sqlite3.SQLITE_IOERR_SHMSIZE, InsufficientStorage),
        (sqlite3.SQLITE_BUSY, Unavailable),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, Unavailable),
        (sqlite3.SQLITE_LOCKED, Unavailable),
        (sqlite3.SQLITE_IOERR, Unavailable),
        (sqlite3.SQLITE_IOERR_WRITE, Unavailable),
        (sqlite3.SQLITE_CANTOPEN, Unavailable),
        (sqlite3.SQLITE_READONLY_DBMOVED, Unavailable),
        (sqlite3.SQLITE_CORRUPT, InternalError),
        (sqlite3.SQLITE_CONSTRAINT_CHECK, InternalError),
    ],
)
def test_what_a_fault_means(code: int, kind: type[Exception]) -> None:
    assert type(translate(error(code))) is kind
    statement_only = code == sqlite3.SQLITE_CONSTRAINT_CHECK
    assert connections.breaks_batch(error(code)) is not statement_only


async def test_after_a_failed_sync_all_is_written_anew_before_anything_is_acknowledged(
    writer: Writer, faulty: type[Faulty]
) -> None:
    await writer.run(put(1))
    faulty.fail_at = "COMMIT"
    with pytest.raises(Unavailable):
        await writer.run(put(2), durable=True)
    doubts = [writer.doubtful]
    faulty.fail_at = "PRAGMA wal_checkpoint(TRUNCATE)"
    with pytest.raises(Unavailable):
        await writer.run(put(3))
    doubts.append(writer.doubtful)
    faulty.fail_at = None
    faulty.seen.clear()
    await writer.run(put(4))
    doubts.append(writer.doubtful)
    assert doubts == [True, True, False]
    assert faulty.seen.index("PRAGMA wal_checkpoint(TRUNCATE)") < faulty.seen.index(
        "BEGIN IMMEDIATE"
    )
