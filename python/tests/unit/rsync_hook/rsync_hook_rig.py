"""What the tests of the rsync hook share: a request, a daemon, its users, rows of the database."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from flashpods.adapters.sqlite.connection import connect_writer
from flashpods.admin.privileges import as_owner_of

ID = "upload_abcdefghijkl"
OWNER, RSYNC_UID = 64901, 64902  # users that no file of the machine has
BOUND = 120.0  # seconds for what takes milliseconds on a machine without other work
TRIES = 10  # for what holds unless a process is stopped meanwhile
BUSY = "another transfer writes"
ROOT = os.geteuid() == 0
A = "-vlogDtprze.iLsfxCIvu"
FUTURE = "2999-01-01T00:00:00.000Z"
PAST = "2020-01-01T00:00:00.000Z"


def request(*arguments: str, **more: str) -> dict[str, str]:
    given = {f"RSYNC_ARG{n}": value for n, value in enumerate(("rsyncd", *arguments))}
    given |= {"RSYNC_MODULE_NAME": "uploads", "RSYNC_REQUEST": f"uploads/{ID}/"}
    return given | more


def opened(database: Path) -> sqlite3.Connection:
    """Open the database as its owner does.

    What root makes beside it (-wal, -shm) is root's for a moment, in which the hook, which is the
    owner, can't open the database.
    """
    with as_owner_of(database):
        connection = connect_writer(database)
        connection.execute("PRAGMA user_version").fetchone()  # the first read makes the files
    return connection


def query(database: Path, sql: str, *values: object) -> list[tuple[object, ...]]:
    with closing(opened(database)) as connection:
        return connection.execute(sql, values).fetchall()


def add_upload(database: Path, state: str = "uploading", **columns: object) -> None:
    given = {"id": ID, "state": state, "created_at": PAST, "expires_at": FUTURE} | columns
    names, marks = ", ".join(given), ", ".join("?" * len(given))
    query(database, f"INSERT INTO uploads ({names}) VALUES ({marks})", *given.values())


@dataclass
class Daemon:
    module: Path
    database: Path
    port: int
    source: Path

    def command(self, target: str, *options: str) -> list[str]:
        url = f"rsync://127.0.0.1:{self.port}/uploads/{target}"
        return ["rsync", "-a", "--contimeout=60", "--timeout=120", *options, f"{self.source}/", url]

    def push(self, target: str, *options: str) -> tuple[int, str]:
        """Push; again, within bounds, while the daemon still ends a push before."""
        end = time.monotonic() + BOUND
        while True:
            code, said = self.push_once(target, *options)
            if BUSY not in said or time.monotonic() > end:
                return code, said

    def push_once(self, target: str, *options: str) -> tuple[int, str]:
        done = subprocess.run(
            self.command(target, *options),
            capture_output=True,
            text=True,
            timeout=BOUND,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def pids(self) -> set[int]:
        return {int(str(pid)) for (pid,) in query(self.database, "SELECT pid FROM transfers")}


def until(condition: Callable[[], object]) -> None:
    """Wait for what another process does; nothing there can wake us, so look often."""
    end, never = time.monotonic() + BOUND, threading.Event()
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        never.wait(0.01)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def named(path: Path) -> set[int]:
    """Return the processes whose command line has the path; a fork has that of its parent."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.fsencode(path) in (entry / "cmdline").read_bytes():
                found.add(int(entry.name))
    return found
