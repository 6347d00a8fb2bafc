"""From rows to records."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from flashpods.jobs.model import (
    Artifact,
    Job,
    JobEvent,
    JobFate,
    JobType,
    Phase,
    Upload,
    UploadState,
)
from flashpods.jobs.states import JobStatus

JOB_FIELDS: Final[tuple[str, ...]] = (
    "id",
    "seq",
    "client_job_id",
    "request_sha256",
    "type",
    "status",
    "phase",
    "command",
    "task",
    "context",
    "git_branch",
    "files_id",
    "image",
    "cpus",
    "memory_gb",
    "timeout_minutes",
    "created_at",
    "started_at",
    "completed_at",
    "cancel_requested_at",
    "container_id",
    "exit_code",
    "error",
    "warnings",
    "log_deleted_at",
    "artifacts_deleted_at",
)
JOB: Final = ", ".join(JOB_FIELDS)
FATE: Final = ", ".join(JobFate._fields)
UPLOAD: Final = (
    "id, project, state, created_at, expires_at, finalizing_at, finalized_at, consumed_at,"
    " size_bytes, file_count, job_id"
)
ARTIFACT: Final = "name, type, size_bytes, sha256, created_at"
EVENT: Final = "job_id, from_status, to_status, at, why"

_TYPES: Final = {member.value: member for member in JobType}
_STATUSES: Final = {member.value: member for member in JobStatus}
_PHASES: Final[dict[str | None, Phase | None]] = {m.value: m for m in Phase} | {None: None}
_STATES: Final = {member.value: member for member in UploadState}
_parse: Final = datetime.fromisoformat

# A frozen dataclass sets each of its 26 fields through object.__setattr__, 11 µs a job, which
# would double the cost of a list. The twin has the same slots, so that CPython lets an instance
# become a Job (object layouts are equal) after plain stores, 1 µs. tests/unit/test_sqlite_rows.py
# compares every field with what the constructor makes.
_Twin: Final[Any] = type("_Twin", (), {"__slots__": JOB_FIELDS})


def job(row: Sequence[Any]) -> Job:
    """Return the job of a row with the columns :data:`JOB`."""
    t = _Twin()
    (
        t.id,
        t.seq,
        t.client_job_id,
        t.request_sha256,
        kind,
        status,
        phase,
        t.command,
        t.task,
        t.context,
        t.git_branch,
        t.files_id,
        t.image,
        t.cpus,
        t.memory_gb,
        t.timeout_minutes,
        created,
        started,
        completed,
        cancel,
        t.container_id,
        t.exit_code,
        t.error,
        warnings,
        log_deleted,
        artifacts_deleted,
    ) = row
    t.type = _TYPES[kind]
    t.status = _STATUSES[status]
    t.phase = _PHASES[phase]
    t.created_at = _parse(created)
    t.started_at = _parse(started) if started else None
    t.completed_at = _parse(completed) if completed else None
    t.cancel_requested_at = _parse(cancel) if cancel else None
    t.warnings = () if warnings == "[]" else tuple(json.loads(warnings))
    t.log_deleted_at = _parse(log_deleted) if log_deleted else None
    t.artifacts_deleted_at = _parse(artifacts_deleted) if artifacts_deleted else None
    t.__class__ = Job
    made: Job = t
    return made


def fate(row: Sequence[Any]) -> JobFate:
    """Return what a row with the columns :data:`FATE` says."""
    seq, status, *times = row
    return JobFate(seq, _STATUSES[status], *(_parse(at) if at else None for at in times))


def upload(row: Sequence[Any]) -> Upload:
    """Return the upload of a row with the columns :data:`UPLOAD`."""
    return Upload(
        id=row[0],
        project=row[1],
        state=_STATES[row[2]],
        created_at=_parse(row[3]),
        expires_at=_parse(row[4]) if row[4] else None,
        finalizing_at=_parse(row[5]) if row[5] else None,
        finalized_at=_parse(row[6]) if row[6] else None,
        consumed_at=_parse(row[7]) if row[7] else None,
        size_bytes=row[8],
        file_count=row[9],
        job_id=row[10],
    )


def artifact(row: Sequence[Any]) -> Artifact:
    """Return the artifact of a row with the columns :data:`ARTIFACT`."""
    return Artifact(
        name=row[0], type=row[1], size_bytes=row[2], sha256=row[3], created_at=_parse(row[4])
    )


def event(row: Sequence[Any]) -> JobEvent:
    """Return the event of a row with the columns :data:`EVENT`."""
    return JobEvent(
        job_id=row[0],
        from_status=_STATUSES[row[1]] if row[1] else None,
        to_status=_STATUSES[row[2]],
        at=_parse(row[3]),
        why=row[4],
    )
