"""Notes in a restored database which logs and artifacts of ended jobs did not come back with it.

Otherwise the API would show such a log as empty, and list artifacts that nobody can fetch.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from flashpods.adapters.sqlite.connection import to_text
from flashpods.adapters.sqlite.migrations import listed
from flashpods.jobs.states import ENDED

__all__ = ["Lost", "mark_lost"]

BUSY_SECONDS: Final = 10.0
_ENDED: Final = listed(ENDED)
_WITH_LOG: Final = (
    f"SELECT id FROM jobs WHERE status IN ({_ENDED}) AND started_at IS NOT NULL"  # noqa: S608
    " AND log_deleted_at IS NULL"
)
_WITH_ARTIFACTS: Final = (
    f"SELECT id FROM jobs WHERE status IN ({_ENDED}) AND artifacts_deleted_at IS NULL"  # noqa: S608
    " AND EXISTS (SELECT 1 FROM artifacts WHERE job_id = jobs.id)"
)


@dataclass(frozen=True, slots=True)
class Lost:
    """How many jobs are without their log, and without their artifacts."""

    logs: int
    artifacts: int


def mark_lost(database: Path, *, logs: Path, capture: Path, artifacts: Path, at: datetime) -> Lost:
    """Mark the log or artifacts of each ended job as deleted that are not in these directories.

    Nobody else has the database open.

    Raises:
        sqlite3.Error: it can't be written.
    """
    with closing(sqlite3.connect(database, timeout=BUSY_SECONDS, isolation_level=None)) as opened:
        opened.execute("BEGIN IMMEDIATE")
        no_log = [
            job
            for job in _ids(opened, _WITH_LOG)
            if not (logs / f"{job}.log").exists() and not (capture / job).exists()
        ]
        no_artifacts = [
            job for job in _ids(opened, _WITH_ARTIFACTS) if not (artifacts / job).is_dir()
        ]
        _mark(opened, "log_deleted_at", no_log, at)
        _mark(opened, "artifacts_deleted_at", no_artifacts, at)
        opened.execute("COMMIT")
    return Lost(len(no_log), len(no_artifacts))


def _ids(opened: sqlite3.Connection, query: str) -> list[str]:
    return [row[0] for row in opened.execute(query)]


def _mark(opened: sqlite3.Connection, column: str, jobs: Sequence[str], at: datetime) -> None:
    opened.executemany(
        f"UPDATE jobs SET {column} = ? WHERE id = ?",  # noqa: S608 - a name of ours
        [(to_text(at), job) for job in jobs],
    )
