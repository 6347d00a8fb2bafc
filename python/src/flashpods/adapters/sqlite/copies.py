"""Copies of a live database, and what else is done to a whole database rather than to its rows.

All of it blocks, all of it has a deadline, and none of it needs the API to be down.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from flashpods.adapters.sqlite import damage
from flashpods.adapters.sqlite.connection import connect_reader, primary_code

PAGES: Final = 2048  # copied between two looks at the clock: 8 MB
PROBLEMS: Final = 20  # that a check lists at most
PROGRESS_STEPS: Final = 10_000
BUSY_SECONDS: Final = 10.0

# sqlite.org/src/file/src/os_unix.c: who has a database in WAL mode open holds a read lock on the
# shared bytes; a writer of the rollback mode takes the pending and the reserved byte before them.
_LOCK_START, _LOCK_BYTES = 0x40000000, 512
_WAL_WRITE: Final = 120  # of the -shm file; sqlite.org/walformat.html, section 2.3
_FLOCK: Final = struct.Struct("hhqqi4x")  # struct flock of 64-bit Linux, fcntl(2)

_T = TypeVar("_T")


class CopyError(Exception):
    """A copy or a check could not be made; the message is one line for a person.

    ``code`` is one of ``disk_full``, ``damaged``, ``timeout``, ``unreadable``, ``in_use``.
    """

    def __init__(self, message: str, code: str) -> None:
        """Keep the code beside the message."""
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """What is in a database, and what is wrong with it (nothing: it is sound)."""

    schema: int  # migrations applied; 0: no database of ours
    size_bytes: int
    free_bytes: int  # of its size, what VACUUM would give back
    jobs: int
    latest: str | None = None  # when the newest event in it happened
    problems: list[str] = field(default_factory=list)


def copy(source: Path, target: Path, *, seconds: float) -> None:
    """Copy a live database to a new file with SQLite's online backup API (sqlite.org/backup.html).

    One read transaction holds the state of its beginning: writers go on, the copy never starts
    anew. The copy is no longer in WAL mode, so that it is one file and stays so when it is read.

    Raises:
        CopyError: ``disk_full``, ``damaged``, ``timeout``, ``unreadable``; the target is removed.
    """
    end = time.monotonic() + seconds

    def in_time(*_: int) -> None:
        if time.monotonic() > end:
            raise CopyError(f"copying {source} took longer than {seconds:g} s", "timeout")

    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        with closing(connect_reader(source)) as reader, closing(sqlite3.connect(target)) as writer:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            reader.backup(writer, pages=PAGES, progress=in_time)
            writer.execute("PRAGMA journal_mode = DELETE")
        sync(target)
    except sqlite3.Error as e:
        target.unlink(missing_ok=True)
        raise _explain(e, f"copying {source}") from e
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def examine(path: Path, *, seconds: float) -> Examined:
    """Look at all of a database: pages, indices, references, counts.

    Raises:
        CopyError: ``timeout``, ``unreadable``. What is damaged is in ``problems`` instead.
    """
    with closing(_open_to_check(path)) as connection:
        return _deadline(connection, path, seconds, lambda: _examine(connection, path))


def _open_to_check(path: Path) -> sqlite3.Connection:
    try:
        with path.open("rb"):
            return connect_reader(path)
    except OSError as e:
        raise CopyError(f"{path}: {e.strerror}", "unreadable") from e
    except sqlite3.Error as e:
        raise CopyError(f"{path}: {e}", "unreadable") from e


def _examine(connection: sqlite3.Connection, path: Path) -> Examined:
    problems: list[str] = []
    schema = pages = page_size = free = jobs = 0
    latest: str | None = None
    try:
        schema, pages, page_size, free = (
            int(connection.execute(f"PRAGMA {name}").fetchone()[0])
            for name in ("user_version", "page_count", "page_size", "freelist_count")
        )
        said = [row[0] for row in connection.execute(f"PRAGMA integrity_check({PROBLEMS})")]
        problems += [] if said == ["ok"] else [" ".join(str(text).split())[:200] for text in said]
        if not schema:
            problems.append("it is no database of Flashpods: it has no schema")
        elif not problems:
            broken = connection.execute("PRAGMA foreign_key_check").fetchmany(PROBLEMS)
            problems += [f"table {row[0]}: row {row[1]} refers to nothing" for row in broken]
            jobs, problem = _counts(connection)
            problems += problem
            (latest,) = connection.execute("SELECT max(at) FROM job_events").fetchone()
    except sqlite3.DatabaseError as e:
        if primary_code(e) == sqlite3.SQLITE_INTERRUPT:
            raise
        problems.append(str(e))
    return Examined(
        schema=schema,
        size_bytes=pages * page_size or path.stat().st_size,
        free_bytes=free * page_size,
        jobs=jobs,
        latest=latest,
        problems=problems[:PROBLEMS],
    )


def _counts(connection: sqlite3.Connection) -> tuple[int, list[str]]:
    """Compare the counters by state with the rows."""
    connection.execute("BEGIN")
    kept = dict(connection.execute("SELECT status, n FROM job_counts WHERE n > 0"))
    real = dict(connection.execute("SELECT status, count(*) FROM jobs GROUP BY status"))
    connection.execute("COMMIT")
    wrong = [s for s in sorted({*kept, *real}) if kept.get(s, 0) != real.get(s, 0)]
    return sum(real.values()), [
        f"job_counts says {kept.get(s, 0)} jobs are {s}, there are {real.get(s, 0)}" for s in wrong
    ]


def schema_of(path: Path) -> int:
    """Return how many migrations a database has.

    Raises:
        CopyError: ``unreadable``.
    """
    with closing(_open_to_check(path)) as connection:
        try:
            return int(connection.execute("PRAGMA user_version").fetchone()[0])
        except sqlite3.Error as e:
            raise CopyError(f"{path}: {e}", "unreadable") from e


def vacuum(path: Path, *, seconds: float) -> None:
    """Write the database anew without its holes; writers wait for all of it.

    Raises:
        CopyError: ``timeout`` (nothing changed), ``disk_full``, ``unreadable``.
    """
    with closing(sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)) as connection:

        def work() -> None:
            connection.execute("PRAGMA journal_size_limit = 67108864")
            connection.execute("VACUUM")
            # The new pages are in the WAL: only a checkpoint makes the file smaller. A reader may
            # hold it up; the next checkpoint then does it.
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

        _deadline(connection, path, seconds, work)


def _deadline(
    connection: sqlite3.Connection, path: Path, seconds: float, work: Callable[[], _T]
) -> _T:
    end = time.monotonic() + seconds
    connection.set_progress_handler(lambda: time.monotonic() > end, PROGRESS_STEPS)
    try:
        return work()
    except sqlite3.Error as e:
        if primary_code(e) == sqlite3.SQLITE_INTERRUPT:
            raise CopyError(f"{path}: not done within {seconds:g} s", "timeout") from e
        raise _explain(e, str(path)) from e
    finally:
        connection.set_progress_handler(None, 0)


def _explain(error: sqlite3.Error, what: str) -> CopyError:
    if primary_code(error) == sqlite3.SQLITE_FULL:
        return CopyError(f"{what}: the disk is full; free space on it", "disk_full")
    code = "damaged" if primary_code(error) in damage.GARBLED else "unreadable"
    return CopyError(f"{what}: {error}", code)


def user_of(path: Path) -> int | None:
    """Return the pid of a process that has the database open, 0 if it is not to be seen.

    None: nobody has. Connections of this process do not count.
    """
    with path.open("rb") as file:
        return _holder(file.fileno())


def _holder(handle: int, start: int = _LOCK_START, count: int = _LOCK_BYTES) -> int | None:
    question = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, count, 0)
    answer = fcntl.fcntl(handle, fcntl.F_GETLK, question)
    kind, _, _, _, pid = _FLOCK.unpack(answer)
    return None if kind == fcntl.F_UNLCK else int(pid)


def write_lock_holder(path: Path, *, seconds: float) -> int | None:
    """Return who keeps others from writing for that long: a pid, 0 if it is not to be seen.

    None: the lock can be had.

    Raises:
        CopyError: ``unreadable``, ``damaged``.
    """
    with closing(sqlite3.connect(path, timeout=seconds, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        except sqlite3.Error as e:
            if primary_code(e) != sqlite3.SQLITE_BUSY:
                raise _explain(e, str(path)) from e
        else:
            return None
    # Only now: closing a descriptor of the file gives up what SQLite has locked in it.
    with path.with_name(path.name + "-shm").open("rb") as file:
        return _holder(file.fileno(), _WAL_WRITE, 1) or 0


def free_bytes(path: Path) -> int:
    """Return how much of a database is holes.

    Raises:
        CopyError: ``unreadable``.
    """
    with closing(_open_to_check(path)) as connection:
        try:
            free, size = (
                int(connection.execute(f"PRAGMA {name}").fetchone()[0])
                for name in ("freelist_count", "page_size")
            )
        except sqlite3.Error as e:
            raise CopyError(f"{path}: {e}", "unreadable") from e
    return free * size


@contextmanager
def held_alone(path: Path) -> Iterator[None]:
    """Keep every other process from the database while the block runs.

    It takes the lock that SQLite itself would: atomically, and the kernel frees it if we die. The
    block must not open the file: closing any descriptor of it gives the lock up (fcntl(2)).

    Raises:
        CopyError: ``in_use``, a process has it open.
        OSError: it can't be opened for writing.
    """
    with path.open("r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, _LOCK_BYTES, _LOCK_START)
        except OSError as e:
            pid = _holder(file.fileno())
            who = f"process {pid}" if pid else "a process"
            raise CopyError(f"{who} has {path} open; stop it first", "in_use") from e
        yield


def sync(path: Path) -> None:
    """Bring a file, or a directory's names, to the disk.

    Raises:
        OSError: the disk refused.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
