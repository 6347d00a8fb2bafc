"""The rsync hook's side of the database, touched only as the database's owner.

The hook runs as root, so what it does here it does in a child that gives up root, or after it has
given up root itself. Standard library and :mod:`flashpods.adapters.sqlite.transfers` only.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from flashpods.adapters.sqlite import transfers
from flashpods.rsync_measure import Count
from flashpods.rsync_request import Refused
from flashpods.rsync_watch import Quota

BUSY_SECONDS: Final = 5.0


class InTransfer(Refused):
    """Another transfer writes to the upload; it may be about to end."""


def become_owner(database: Path) -> None:
    """Give up root for the owner of the database, for good; without root it stays as it is."""
    owner = database.stat()
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.setgroups([0])  # whom alone /proc shows who writes (ProtectProc=, proc(5), hidepid)
        os.setgid(owner.st_gid)
        os.setuid(owner.st_uid)
        os.umask(0o077)


@contextlib.contextmanager
def transaction(database: Path) -> Iterator[sqlite3.Connection]:
    """Open the database, which exists; commit at the end, roll back on any error."""
    uri = f"{database.absolute().as_uri()}?mode=rw"
    with contextlib.closing(
        sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None)
    ) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = NORMAL")  # its processes die with the power too
        connection.execute("BEGIN IMMEDIATE")
        yield connection
        connection.execute("COMMIT")


def now_text(later_seconds: float = 0.0) -> str:
    """Return the time, or a later one, as the database has it."""
    at = datetime.now(UTC) + timedelta(seconds=later_seconds)
    return at.isoformat(timespec="milliseconds")[:-6] + "Z"


def admit(
    connection: sqlite3.Connection, upload_id: str, quota: Quota, expires_seconds: float
) -> None:
    """Refuse an upload that may not be written to, and adopt one that no row knows.

    Raises:
        Refused: finalizing, finalized, consumed, expired, in transfer, or over a quota.
    """
    now = now_text()
    row = connection.execute(
        "SELECT state, expires_at, finalizing_at, size_bytes, file_count FROM uploads WHERE id = ?",
        (upload_id,),
    ).fetchone()
    state, expires_at, finalizing_at, size, files = row or ("uploading", None, None, None, None)
    if state == "expired" or (state == "uploading" and expires_at and expires_at <= now):
        raise Refused(f"{upload_id} has expired; push under a new id")
    if state != "uploading":
        raise Refused(f"{upload_id} is {state}; push under a new id")
    if finalizing_at:
        raise Refused(f"{upload_id} is being finalized; push under a new id")
    if transfers.live(connection, upload_id):
        raise InTransfer(f"another transfer writes to {upload_id}; wait for it to end")
    for have, most, what in (
        (size, quota.max_bytes, "bytes"),
        (files, quota.max_files, "files and directories"),
    ):
        if have is not None and have > most:
            raise Refused(
                f"{upload_id} holds {have} {what}, the limit is {most}; push less under a new id"
            )
    (stored,) = connection.execute(
        "SELECT coalesce(sum(size_bytes), 0) FROM uploads WHERE state IN ('uploading', 'finalized')"
    ).fetchone()
    if stored >= quota.total_bytes:
        raise Refused(
            f"uploads hold {stored} bytes, the limit is {quota.total_bytes}; "
            f"run or delete some first"
        )
    if row is None:
        connection.execute(
            "INSERT INTO uploads (id, state, created_at, expires_at) VALUES (?, 'uploading', ?, ?)",
            (upload_id, now, now_text(expires_seconds)),
        )
    connection.execute("DELETE FROM transfers WHERE upload_id = ?", (upload_id,))  # the dead ones


def keep_size(connection: sqlite3.Connection, upload_id: str, size: int, files: int) -> str:
    """Keep what an arriving tree holds; return the bytes of all other uploads."""
    connection.execute(
        "UPDATE uploads SET size_bytes = ?, file_count = ? WHERE id = ? AND state = 'uploading'",
        (size, files, upload_id),
    )
    (others,) = connection.execute(
        "SELECT coalesce(sum(size_bytes), 0) FROM uploads"
        " WHERE state IN ('uploading', 'finalized') AND id <> ?",
        (upload_id,),
    ).fetchone()
    return str(others)


def settle(connection: sqlite3.Connection, sizes: Mapping[str, Count], quota: Quota) -> None:
    """Keep what transfers left, by upload.

    What was ended for its quota keeps the figures that say so: its temporary file is gone. A count
    that was not in time only raises what the watcher has kept.
    """
    connection.executemany(
        "UPDATE uploads SET size_bytes = max(?, iif(?, 0, coalesce(size_bytes, 0))),"
        " file_count = max(?, iif(?, 0, coalesce(file_count, 0)))"
        " WHERE id = ? AND state = 'uploading'"
        " AND coalesce(size_bytes, 0) <= ? AND coalesce(file_count, 0) <= ?",
        [
            (c.bytes, c.in_time, c.entries, c.in_time, i, quota.max_bytes, quota.max_files)
            for i, c in sizes.items()
        ],
    )


def as_owner(database: Path, work: Callable[[sqlite3.Connection], str]) -> tuple[int, int]:
    """Begin a transaction in a child that gives up root; :func:`finished` returns what it says."""
    receive, send = os.pipe()
    child = os.fork()
    if child:
        os.close(send)
        return child, receive
    status = 1
    try:
        os.close(receive)
        become_owner(database)
        with transaction(database) as connection:
            said = work(connection)
        os.write(send, said.encode())
        status = 0
    finally:
        os._exit(status)  # the parent's cleanup is not ours


def finished(child: int, receive: int) -> str:
    """Wait for a child of :func:`as_owner` and return what it says.

    Raises:
        Refused: it failed; what it did is undone.
    """
    with open(receive, "rb") as pipe:
        said = pipe.read().decode()
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0:
        raise Refused("the host can't record the transfer now; try again")
    return said
