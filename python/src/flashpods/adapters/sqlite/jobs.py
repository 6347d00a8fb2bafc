"""The transactions on jobs; each function runs within one, on the writer's connection.

The queries at the end run on any connection.
"""

# ruff: noqa: S608 - only constants of this package are put into SQL; values are bound
from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

from flashpods import failpoints
from flashpods.adapters.sqlite import rows
from flashpods.adapters.sqlite.connection import snapshot, to_text
from flashpods.adapters.sqlite.migrations import ACTIVE_SQL, REAPABLE_SQL
from flashpods.adapters.sqlite.refusals import (
    add_warnings,
    already_terminal,
    check_claim,
    idempotency_conflict,
    job_not_found,
    now_draining,
    stale,
)
from flashpods.errors import FlashpodsError
from flashpods.jobs.admission import check_fits
from flashpods.jobs.model import (
    Artifact,
    Capacity,
    Job,
    JobEvent,
    JobFate,
    JobPage,
    NewJob,
    Note,
    Outcome,
    Reserved,
    Step,
)
from flashpods.jobs.states import ENDED, JobStatus, Trigger
from flashpods.jobs.states import advance as next_status

ACCEPTED: Final = "accepted"  # the why of the first event
DRAINING: Final = "draining"

_INSERT: Final = (
    "INSERT INTO jobs (id, client_job_id, request_sha256, type, status, command, task, context,"
    " git_branch, files_id, image, cpus, memory_gb, timeout_minutes, created_at, warnings)"
    f" VALUES (?, ?, ?, ?, 'pending', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING {rows.JOB}"
)
_BY_ID: Final = f"SELECT {rows.JOB} FROM jobs WHERE id = ?"
_EVENTS: Final = f"SELECT {rows.EVENT} FROM job_events WHERE job_id = ? ORDER BY n"
_EVENT: Final = f"INSERT INTO job_events ({rows.EVENT}) VALUES (?, ?, ?, ?, ?)"
_NEWEST: Final = (
    "SELECT seq FROM (SELECT seq FROM jobs WHERE status = ? AND seq < ? ORDER BY seq DESC LIMIT ?)"
)
_ARTIFACTS_KEPT: Final = " AND artifacts_deleted_at IS NULL"
_UPLOAD: Final = f"SELECT {rows.UPLOAD} FROM uploads WHERE id = ?"


def submit(
    connection: sqlite3.Connection,
    new: NewJob,
    capacity: Capacity,
    at: datetime,
    refuse: FlashpodsError | None,
) -> tuple[Job, bool]:
    """See :meth:`flashpods.ports.JobStore.submit`."""
    if new.client_job_id is not None and (found := _replayed(connection, new)):
        return found, False
    if refuse is not None:
        raise refuse
    if is_draining(connection):
        raise now_draining()
    if new.files_id is not None:
        row = connection.execute(_UPLOAD, (new.files_id,)).fetchone()
        check_claim(rows.upload(row) if row else None, new.files_id, at)
    check_fits(new.grant, reserved(connection), capacity)
    now = to_text(at)
    job = rows.job(connection.execute(_INSERT, _values(new, now)).fetchone())
    connection.execute(_EVENT, (new.id, None, JobStatus.PENDING.value, now, ACCEPTED))
    if new.client_job_id is not None:
        connection.execute(
            "INSERT INTO idempotency_keys (client_job_id, request_sha256, job_id, created_at)"
            " VALUES (?, ?, ?, ?)",
            (new.client_job_id, new.request_sha256, new.id, now),
        )
    if new.files_id is not None:
        connection.execute("UPDATE uploads SET job_id = ? WHERE id = ?", (new.id, new.files_id))
    return job, True


def _values(new: NewJob, now: str) -> tuple[str | int | None, ...]:
    """Return what :data:`_INSERT` binds."""
    return (
        new.id,
        new.client_job_id,
        new.request_sha256,
        new.type.value,
        new.command,
        new.task,
        new.context,
        new.git_branch,
        new.files_id,
        new.image,
        new.grant.cpus,
        new.grant.memory_gb,
        new.grant.timeout_minutes,
        now,
        json.dumps(new.warnings) if new.warnings else "[]",
    )


def _replayed(connection: sqlite3.Connection, new: NewJob) -> Job | None:
    """Return the job that holds the key; None if the key is free."""
    row = connection.execute(
        "SELECT job_id, request_sha256 FROM idempotency_keys WHERE client_job_id = ?",
        (new.client_job_id,),
    ).fetchone()
    if row is None:
        return None
    job_id, request_sha256 = row
    if request_sha256 != new.request_sha256:
        raise idempotency_conflict(new.client_job_id, job_id)
    return get(connection, job_id)


def advance(
    connection: sqlite3.Connection, job_id: str, expected: JobStatus, trigger: Trigger, step: Step
) -> Job:
    """See :meth:`flashpods.ports.JobStore.advance`."""
    target = next_status(expected, trigger)
    now = to_text(step.at)
    ends = target in ENDED
    outcome = (step.outcome if ends else None) or Outcome()
    row = connection.execute(
        "UPDATE jobs SET status = ?, phase = ?, container_id = coalesce(?, container_id),"
        " started_at = CASE WHEN ? THEN ? ELSE started_at END,"
        " completed_at = CASE WHEN ? THEN ? ELSE completed_at END,"
        " exit_code = coalesce(?, exit_code), error = coalesce(?, error)"
        # A cancellation that was acknowledged decides how an active job ends.
        " WHERE id = ? AND status = ? AND (? OR cancel_requested_at IS NULL)"
        f" RETURNING {rows.JOB}",
        (
            target.value,
            step.phase.value if step.phase else None,
            step.container_id,
            trigger is Trigger.STARTED,
            now,
            ends,
            now,
            outcome.exit_code,
            outcome.error,
            job_id,
            expected.value,
            trigger is Trigger.CANCEL or not ends,
        ),
    ).fetchone()
    if row is None:
        raise stale(get(connection, job_id), job_id, expected.value)
    connection.execute(_EVENT, (job_id, expected.value, target.value, now, step.why))
    if trigger is Trigger.STARTED:
        failpoints.hit("consume.before")
        connection.execute(
            "UPDATE uploads SET state = 'consumed', consumed_at = ?, expires_at = NULL"
            " WHERE job_id = ? AND state = 'finalized'",
            (now, job_id),
        )
        failpoints.hit("consume.after")
    elif ends:
        _end(connection, job_id, now, step.artifacts)
    elif trigger is Trigger.CLEANED:
        connection.execute("DELETE FROM idempotency_keys WHERE job_id = ?", (job_id,))
        connection.execute("DELETE FROM artifacts WHERE job_id = ?", (job_id,))
    return rows.job(row)


def _end(
    connection: sqlite3.Connection, job_id: str, now: str, artifacts: Iterable[Artifact] | None
) -> None:
    """Expire the upload that was never consumed, and write the artifacts' names."""
    connection.execute(
        "UPDATE uploads SET state = 'expired', expired_at = ?, expires_at = NULL"
        " WHERE job_id = ? AND state = 'finalized'",
        (now, job_id),
    )
    if artifacts is None:
        return
    connection.execute("DELETE FROM artifacts WHERE job_id = ?", (job_id,))
    connection.executemany(
        f"INSERT INTO artifacts (job_id, {rows.ARTIFACT}) VALUES (?, ?, ?, ?, ?, ?)",
        [
            (job_id, a.name, a.type, a.size_bytes, a.sha256, to_text(a.created_at))
            for a in artifacts
        ],
    )


def note(connection: sqlite3.Connection, job_id: str, note: Note) -> Job:
    """See :meth:`flashpods.ports.JobStore.note`."""
    job = get(connection, job_id)
    if job is None:
        raise job_not_found(job_id)
    row = connection.execute(
        "UPDATE jobs SET phase = coalesce(?, phase), warnings = ?,"
        " log_deleted_at = coalesce(?, log_deleted_at),"
        f" artifacts_deleted_at = coalesce(?, artifacts_deleted_at) WHERE id = ?"
        f" RETURNING {rows.JOB}",
        (
            note.phase.value if note.phase else None,
            json.dumps(add_warnings(job.warnings, note.warnings)),
            to_text(note.log_deleted_at) if note.log_deleted_at else None,
            to_text(note.artifacts_deleted_at) if note.artifacts_deleted_at else None,
            job_id,
        ),
    ).fetchone()
    return rows.job(row)


def request_cancel(connection: sqlite3.Connection, job_id: str, at: datetime) -> Job:
    """See :meth:`flashpods.ports.JobStore.request_cancel`."""
    row = connection.execute(
        "UPDATE jobs SET cancel_requested_at = coalesce(cancel_requested_at, ?)"
        f" WHERE id = ? AND {ACTIVE_SQL} RETURNING {rows.JOB}",
        (to_text(at), job_id),
    ).fetchone()
    if row is not None:
        return rows.job(row)
    job = get(connection, job_id)
    if job is None:
        raise job_not_found(job_id)
    raise already_terminal(job)


def set_draining(connection: sqlite3.Connection, draining: bool, at: datetime) -> None:
    """See :meth:`flashpods.ports.JobStore.set_draining`; the flag keeps its first date."""
    if draining:
        connection.execute(
            "INSERT INTO flags (name, at) VALUES (?, ?) ON CONFLICT DO NOTHING",
            (DRAINING, to_text(at)),
        )
    else:
        connection.execute("DELETE FROM flags WHERE name = ?", (DRAINING,))


# --------------------------------------------------------------------------- queries


def get(connection: sqlite3.Connection, job_id: str) -> Job | None:
    """Return the row."""
    row = connection.execute(_BY_ID, (job_id,)).fetchone()
    return rows.job(row) if row else None


def events(connection: sqlite3.Connection, job_id: str) -> list[JobEvent]:
    """Return the job's history, oldest first; at most seven rows."""
    return [rows.event(row) for row in connection.execute(_EVENTS, (job_id,))]


def history(connection: sqlite3.Connection, job_id: str) -> tuple[Job, list[JobEvent]] | None:
    """See :meth:`flashpods.ports.JobStore.history`."""
    with snapshot(connection):
        job = get(connection, job_id)
        return None if job is None else (job, events(connection, job_id))


def reserved(connection: sqlite3.Connection) -> Reserved:
    """Return what active jobs hold; reads the partial index only."""
    cpus, memory_gb, jobs = connection.execute(
        f"SELECT coalesce(sum(cpus), 0), coalesce(sum(memory_gb), 0), count(*)"
        f" FROM jobs INDEXED BY jobs_active WHERE {ACTIVE_SQL}"
    ).fetchone()
    return Reserved(cpus=cpus, memory_gb=memory_gb, jobs=jobs)


def is_draining(connection: sqlite3.Connection) -> bool:
    """Return whether new jobs are refused."""
    row = connection.execute("SELECT 1 FROM flags WHERE name = ?", (DRAINING,)).fetchone()
    return row is not None


def page(
    connection: sqlite3.Connection,
    statuses: Sequence[JobStatus] | None,
    limit: int,
    cursor: int | None,
) -> JobPage:
    """See :meth:`flashpods.ports.JobStore.page`; one key set read for each state."""
    below = cursor if cursor is not None else 2**63 - 1
    values: list[Any] = [below]
    if statuses is None:
        total = _number(connection, "SELECT sum(n) FROM job_counts")
        source = "jobs WHERE seq < ?"
    else:
        wanted = [s.value for s in JobStatus if s in statuses]
        marks = ", ".join("?" * len(wanted))
        total = _number(
            connection,
            f"SELECT coalesce(sum(n), 0) FROM job_counts WHERE status IN ({marks})",
            *wanted,
        )
        if len(wanted) == 1:
            source, values = "jobs WHERE status = ? AND seq < ?", [*wanted, below]
        else:
            # IN over several states would sort all rows of these states; so each state gives its
            # newest from the index, and the newest of those are the page.
            chosen = " UNION ALL ".join([_NEWEST] * len(wanted)) or "SELECT 0 WHERE 0"
            source = f"jobs WHERE seq IN ({chosen})"
            values = [value for status in wanted for value in (status, below, limit + 1)]
    found = connection.execute(
        f"SELECT {rows.JOB} FROM {source} ORDER BY seq DESC LIMIT ?", (*values, limit + 1)
    ).fetchall()
    jobs = [rows.job(row) for row in found[:limit]]
    return JobPage(
        jobs=jobs, total=total, next_cursor=jobs[-1].seq if len(found) > limit and jobs else None
    )


def _number(connection: sqlite3.Connection, sql: str, *values: Any) -> int:
    return int(connection.execute(sql, values).fetchone()[0])


def active(connection: sqlite3.Connection) -> list[Job]:
    """Return the jobs that hold resources, oldest first."""
    sql = f"SELECT {rows.JOB} FROM jobs WHERE {ACTIVE_SQL} ORDER BY seq"
    return [rows.job(row) for row in connection.execute(sql)]


def known(connection: sqlite3.Connection, job_ids: Sequence[str]) -> dict[str, Job]:
    """Return the rows of those ids that exist."""
    sql = f"SELECT {rows.JOB} FROM jobs WHERE id IN (SELECT value FROM json_each(?))"
    found = connection.execute(sql, (json.dumps(list(job_ids)),))
    return {job.id: job for job in map(rows.job, found)}


def fates(connection: sqlite3.Connection, job_ids: Sequence[str]) -> dict[str, JobFate]:
    """Return how far the rows of those ids that exist are on their way out."""
    sql = f"SELECT id, {rows.FATE} FROM jobs WHERE id IN (SELECT value FROM json_each(?))"
    found = connection.execute(sql, (json.dumps(list(job_ids)),))
    return {job_id: rows.fate(row) for job_id, *row in found}


def ended(
    connection: sqlite3.Connection, before: datetime, limit: int, kept: str | None
) -> list[Job]:
    """Return ended or cleaning jobs, the longest ended first."""
    still = {None: "", "log": " AND log_deleted_at IS NULL", "artifacts": _ARTIFACTS_KEPT}[kept]
    sql = (
        f"SELECT {rows.JOB} FROM jobs INDEXED BY jobs_reapable"
        f" WHERE {REAPABLE_SQL} AND completed_at < ?{still}"
        " ORDER BY completed_at, seq LIMIT ?"
    )
    return [rows.job(row) for row in connection.execute(sql, (to_text(before), limit))]
