"""Who is writing to an upload: rows of ``transfers`` and the processes behind them.

A transfer is live only while one of its recorded processes exists, so that a post-transfer hook
that never ran (a kill, a reboot) wedges nothing. Imported by the rsync hook: standard library only.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Final

START_FIELD: Final = 22  # proc(5), /proc/PID/stat: starttime, in clock ticks since the boot
HIDDEN: Final = -1  # the process exists, but this process may not see when it started


def stat_fields(pid: int) -> list[str] | None:
    """Return the fields of ``/proc/PID/stat`` from the third on; None if it can't be read.

    The second field is the command in parentheses, which may hold anything, so it is cut off.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")  # a process may be called \xff
        return stat.rpartition(")")[2].split()
    except OSError:
        return None


def start_ticks(pid: int) -> int | None:
    """Return when the process started, None if it is dead (a zombie is), HIDDEN if unknown."""
    if pid <= 0:
        return None
    fields = stat_fields(pid)
    if fields is not None:
        return None if fields[0] in "ZXx" else int(fields[START_FIELD - 3])
    try:
        os.kill(pid, 0)  # with hidepid or ProtectProc the entry is hidden, but this still tells
    except ProcessLookupError:
        return None
    except PermissionError:
        return HIDDEN
    return HIDDEN


def parent(pid: int) -> int:
    """Return the parent's process id; 0 if there is none."""
    fields = stat_fields(pid)
    return int(fields[1]) if fields else 0


def alive(pid: int, ticks: int) -> bool:
    """Whether the very process that was recorded still exists, not a later one of its number."""
    now = start_ticks(pid)
    return now is not None and (now == ticks or HIDDEN in (now, ticks))


def record(
    connection: sqlite3.Connection,
    upload_id: str,
    rsync_pid: int,
    processes: list[tuple[int, int]],
    at: str,
) -> None:
    """Insert the processes of a transfer, each with its :func:`start_ticks`."""
    connection.executemany(
        "INSERT OR REPLACE INTO transfers (upload_id, rsync_pid, pid, start_ticks, started_at)"
        " VALUES (?, ?, ?, ?, ?)",
        [(upload_id, rsync_pid, pid, ticks, at) for pid, ticks in processes],
    )


def live(connection: sqlite3.Connection, upload_id: str) -> bool:
    """Whether somebody writes to the upload; a reader of ``/proc``, some 20 µs a process."""
    rows = connection.execute(
        "SELECT pid, start_ticks FROM transfers WHERE upload_id = ?", (upload_id,)
    ).fetchall()
    return any(alive(pid, ticks) for pid, ticks in rows)


def forget(connection: sqlite3.Connection, rsync_pid: int) -> list[str]:
    """Delete the rows of a transfer; return the ids of its uploads."""
    rows = connection.execute(
        "DELETE FROM transfers WHERE rsync_pid = ? RETURNING upload_id", (rsync_pid,)
    ).fetchall()
    return sorted({upload_id for (upload_id,) in rows})
