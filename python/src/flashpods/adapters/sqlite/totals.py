"""What the records add up to; the triggers of migration 0002 keep what is of all time."""

# ruff: noqa: S608 - only constants of this package are put into SQL
from __future__ import annotations

import sqlite3

from flashpods.adapters.sqlite import jobs
from flashpods.adapters.sqlite.connection import snapshot
from flashpods.adapters.sqlite.migrations import ACTIVE_SQL, REAPABLE_SQL
from flashpods.jobs.model import Ended, JobType, Tally, UploadState
from flashpods.jobs.states import JobStatus


def tally(connection: sqlite3.Connection) -> Tally:
    """See :meth:`flashpods.ports.JobStore.tally`; some hundred rows, in one read transaction."""
    with snapshot(connection):
        return _tally(connection)


def _tally(connection: sqlite3.Connection) -> Tally:
    active = connection.execute(
        f"SELECT status, type, count(*) FROM jobs WHERE {ACTIVE_SQL} GROUP BY status, type"
    )
    totals = connection.execute("SELECT type, outcome, reason, n FROM job_totals").fetchall()
    uploads = connection.execute(
        "SELECT state, count(*), coalesce(sum(size_bytes), 0) FROM uploads"
        " WHERE state IN ('uploading', 'finalized') GROUP BY state"
    )
    moved = connection.execute("SELECT state, n, bytes FROM upload_totals").fetchall()
    return Tally(
        active={(JobStatus(status), JobType(kind)): n for status, kind, n in active},
        reserved=jobs.reserved(connection),
        draining=jobs.is_draining(connection),
        created={JobType(kind): n for kind, outcome, _, n in totals if outcome == "created"},
        ended={
            Ended(type=JobType(kind), status=JobStatus(outcome), reason=reason): n
            for kind, outcome, reason, n in totals
            if outcome != "created"
        },
        uploads={UploadState(state): (n, size) for state, n, size in uploads},
        uploads_total={UploadState(state): n for state, n, _ in moved},
        uploads_finalized_bytes=sum(
            size for state, _, size in moved if state == UploadState.FINALIZED
        ),
    )


def artifact_bytes(connection: sqlite3.Connection) -> int:
    """See :meth:`flashpods.ports.JobStore.artifact_bytes`."""
    (size,) = connection.execute(
        "SELECT coalesce(sum(size_bytes), 0) FROM artifacts WHERE job_id IN"
        f" (SELECT id FROM jobs INDEXED BY jobs_reapable WHERE {REAPABLE_SQL}"
        " AND artifacts_deleted_at IS NULL)"
    ).fetchone()
    return int(size)
