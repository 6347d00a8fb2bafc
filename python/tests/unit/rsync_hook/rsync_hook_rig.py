"""What the tests of the rsync hook share: a request, its users, and rows of the database."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

from flashpods.adapters.sqlite.connection import connect_writer

ID = "upload_abcdefghijkl"
OWNER, RSYNC_UID = 64901, 64902  # users that no file of the machine has
BOUND = 60.0  # seconds for what takes milliseconds on a machine without other work
ROOT = os.geteuid() == 0
A = "-vlogDtprze.iLsfxCIvu"
FUTURE = "2999-01-01T00:00:00.000Z"
PAST = "2020-01-01T00:00:00.000Z"


def request(*arguments: str, **more: str) -> dict[str, str]:
    given = {f"RSYNC_ARG{n}": value for n, value in enumerate(("rsyncd", *arguments))}
    given |= {"RSYNC_MODULE_NAME": "uploads", "RSYNC_REQUEST": f"uploads/{ID}/"}
    return given | more


def query(database: Path, sql: str, *values: object) -> list[tuple[object, ...]]:
    with closing(connect_writer(database)) as connection:
        return connection.execute(sql, values).fetchall()


def add_upload(database: Path, state: str = "uploading", **columns: object) -> None:
    given = {"id": ID, "state": state, "created_at": PAST, "expires_at": FUTURE} | columns
    names, marks = ", ".join(given), ", ".join("?" * len(given))
    query(database, f"INSERT INTO uploads ({names}) VALUES ({marks})", *given.values())
