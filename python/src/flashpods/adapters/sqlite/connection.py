"""Connections, times as text, and what SQLite's errors mean to a caller."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from flashpods.errors import FlashpodsError, InsufficientStorage, InternalError, Unavailable

BUSY_SECONDS: Final = 5.0
READ_BUSY_SECONDS: Final = 0.25  # WAL readers wait for nobody; on the loop they must not block it

_FULL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE}
_STATEMENT = {
    0,
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_MISUSE,
    sqlite3.SQLITE_RANGE,
    sqlite3.SQLITE_TOOBIG,
}
_PASSING = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_INTERRUPT,
}


def to_text(at: datetime) -> str:
    """Return RFC 3339 UTC with milliseconds, ``2026-11-24T09:31:26.123Z``; it sorts as time does.

    Raises:
        ValueError: ``at`` is naive.
    """
    if at.tzinfo is not UTC:
        if at.tzinfo is None:
            raise ValueError(f"a naive time, {at}, can't be stored; give an aware one")
        at = at.astimezone(UTC)
    return at.isoformat(timespec="milliseconds")[:-6] + "Z"


def connect_writer(path: Path) -> sqlite3.Connection:
    """Open the connection that writes: autocommit, so that transactions are explicit."""
    connection = sqlite3.connect(
        path,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
    )
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA journal_size_limit = 67108864")  # a burst's WAL is given back
    return connection


def connect_reader(path: Path, *, busy_seconds: float = BUSY_SECONDS) -> sqlite3.Connection:
    """Open a connection that can only read; each statement sees the latest commit."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro",
        uri=True,
        timeout=busy_seconds,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
    )
    connection.execute("PRAGMA query_only = ON")
    return connection


@contextmanager
def snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """Open a read transaction: what is read inside it is of one moment."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        if connection.in_transaction:  # some errors have ended it
            connection.execute("COMMIT")


def primary_code(error: sqlite3.Error) -> int:
    """Return the primary result code (sqlite.org/rescode.html); 0 if the module itself raised."""
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF


def breaks_batch(error: sqlite3.Error) -> bool:
    """Whether the fault is the database's, not one statement's: nothing of the batch may stand."""
    return primary_code(error) not in _STATEMENT


def translate(error: sqlite3.Error) -> FlashpodsError:
    """Say what a fault of the database means to the caller; the cause goes to the log."""
    extended = getattr(error, "sqlite_errorcode", None) or 0
    if extended in _FULL or primary_code(error) in _FULL:
        return InsufficientStorage("the disk of the database is full; free space on it")
    if primary_code(error) in _PASSING:
        return Unavailable(f"the database can't answer now ({error}); try again")
    return InternalError("the database failed; see the journal")
