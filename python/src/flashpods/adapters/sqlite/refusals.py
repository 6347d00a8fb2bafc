"""What a store refuses, and in which words: pure rules, shared with the store in memory."""

from __future__ import annotations

from datetime import datetime, timedelta

from flashpods.errors import (
    Conflict,
    Gone,
    InsufficientStorage,
    NotFound,
    StaleState,
    Unavailable,
    cut,
)
from flashpods.jobs.model import Job, Upload, UploadState

DRAIN_RETRY_SECONDS = "30"  # an upgrade's API is back within that; a drained host takes minutes
MAX_WARNINGS = 500  # a job's list of warnings is bounded


def job_not_found(job_id: str) -> NotFound:
    """Return the error for a job id that no row has."""
    return NotFound(f"there is no job {cut(job_id)}; list them", code="job_not_found")


def upload_not_found(upload_id: str) -> NotFound:
    """Return the error for an upload id that no row has, or that has expired."""
    return NotFound(
        f"there is no upload {cut(upload_id)}, or it has expired; push the files again",
        code="upload_not_found",
    )


def stale(job: Job | None, job_id: str, expected: str) -> StaleState:
    """Return the error for a job that is not in the expected state."""
    found = job.status.value if job else "gone"
    if found == expected:
        return StaleState(f"job {cut(job_id)} is to be cancelled; it can't end otherwise")
    return StaleState(f"job {cut(job_id)} is {found}, not {expected}")


def already_terminal(job: Job) -> Conflict:
    """Return the error for the cancel of a job that has ended."""
    return Conflict(
        f"job {job.id} is {job.status.value} already; there is nothing to cancel",
        code="job_already_terminal",
        details={"status": job.status.value},
    )


def idempotency_conflict(client_job_id: str | None, job_id: str) -> Conflict:
    """Return the error for a key that another request has used."""
    return Conflict(
        f"client_job_id {cut(client_job_id)} was used for another request (job {job_id}); "
        f"send the same request, or a new UUID",
        code="idempotency_conflict",
        details={"job_id": job_id},
    )


def now_draining() -> Unavailable:
    """Return the error for a new job while the host drains."""
    return Unavailable(
        "the host is draining: it takes no new jobs; try again later",
        headers={"Retry-After": DRAIN_RETRY_SECONDS},
    )


def upload_exists(upload_id: str) -> Conflict:
    """Return the error for an id that is taken."""
    return Conflict(f"upload {upload_id} exists already; use another id", code="upload_exists")


FINALIZE_SECONDS = 300
"""A finalize that began longer ago than this is dead; its own deadlines end it before."""


def finalizing(upload: Upload, at: datetime) -> bool:
    """Whether a finalize may be at work on the tree."""
    began = upload.finalizing_at
    return began is not None and at - began < timedelta(seconds=FINALIZE_SECONDS)


def check_claim(upload: Upload | None, upload_id: str, at: datetime) -> None:
    """Refuse an upload that a new job may not take.

    Raises:
        NotFound: ``upload_not_found``, also when expired.
        Conflict: ``upload_not_finalized``, ``upload_already_consumed``.
    """
    if upload is None or upload.overdue(at):
        raise upload_not_found(upload_id)
    if upload.state is UploadState.UPLOADING:
        raise Conflict(
            f"upload {upload_id} is not finalized; POST /uploads/{upload_id}/finalize first",
            code="upload_not_finalized",
        )
    if upload.state is UploadState.CONSUMED or upload.job_id is not None:
        raise Conflict(
            f"upload {upload_id} belongs to another job; push the files again under a new id",
            code="upload_already_consumed",
        )


def check_finalize(upload: Upload | None, upload_id: str, at: datetime, *, live: bool) -> None:
    """Refuse an upload that may not be finalized. One begun in time may be finished late.

    Raises:
        NotFound: ``upload_not_found``.
        Conflict: ``upload_in_progress``, ``upload_already_finalized``,
            ``upload_already_consumed``.
        Gone: ``upload_expired``.
    """
    if upload is None:
        raise upload_not_found(upload_id)
    claimed = upload.state is UploadState.FINALIZED and upload.job_id is not None
    if claimed or upload.state is UploadState.CONSUMED:
        raise Conflict(
            f"upload {upload_id} belongs to job {upload.job_id}; push the files again",
            code="upload_already_consumed",
        )
    if upload.state is UploadState.FINALIZED and not upload.overdue(at):
        raise Conflict(
            f"upload {upload_id} is finalized already; post the job",
            code="upload_already_finalized",
        )
    if upload.overdue(at) and upload.finalizing_at is None:
        raise expired(upload_id)
    if live:
        raise Conflict(
            f"rsync is still writing to {upload_id}; finalize when it has ended",
            code="upload_in_progress",
        )


def expired(upload_id: str) -> Gone:
    """Return the error for an upload whose time is over."""
    return Gone(
        f"upload {upload_id} has expired; push the files again under a new id",
        code="upload_expired",
    )


def check_complete(upload: Upload | None, upload_id: str) -> bool:
    """Return True if the upload is to become finalized, False if it is already.

    Raises:
        NotFound: ``upload_not_found``.
        Gone: ``upload_expired``, it was expired meanwhile.
        StaleState: finalize was not begun, or was aborted.
    """
    if upload is None:
        raise upload_not_found(upload_id)
    if upload.state is UploadState.EXPIRED:
        raise expired(upload_id)
    if upload.state is not UploadState.UPLOADING:
        return False
    if upload.finalizing_at is None:
        raise StaleState(f"upload {upload_id} is open to transfers; begin its finalize first")
    return True


def check_quota(stored: int, size_bytes: int, total_quota_bytes: int) -> None:
    """Refuse a tree that would take all finalized uploads over the quota.

    Raises:
        InsufficientStorage: ``insufficient_storage``.
    """
    if stored + size_bytes > total_quota_bytes:
        raise InsufficientStorage(
            f"the upload holds {size_bytes} bytes, finalized uploads hold {stored} of "
            f"{total_quota_bytes}; run or delete some first, or push less",
            details={
                "size_bytes": size_bytes,
                "stored_bytes": stored,
                "limit_bytes": total_quota_bytes,
            },
        )


def add_warnings(old: tuple[str, ...], new: tuple[str, ...]) -> tuple[str, ...]:
    """Append what is not there yet: recovery repeats its verbs, and the list has a bound."""
    return tuple(dict.fromkeys((*old, *new)))[:MAX_WARNINGS]
