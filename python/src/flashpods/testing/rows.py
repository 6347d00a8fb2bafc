"""Rows of jobs and uploads, as :class:`flashpods.testing.stores.MemoryStore` begins with."""

from __future__ import annotations

from datetime import UTC, datetime

from flashpods.jobs.model import Job, JobType, NewJob, Upload, UploadState
from flashpods.jobs.states import JobStatus
from flashpods.testing.runtime import IMAGE


def milliseconds(at: datetime) -> datetime:
    """Cut a time to what a database keeps: milliseconds, UTC."""
    at = at.astimezone(UTC)
    return at.replace(microsecond=at.microsecond // 1000 * 1000)


def first_row(new: NewJob, *, seq: int, at: datetime) -> Job:
    """Return the job as it is accepted."""
    return Job(
        id=new.id,
        seq=seq,
        client_job_id=new.client_job_id,
        request_sha256=new.request_sha256,
        type=new.type,
        status=JobStatus.PENDING,
        phase=None,
        command=new.command,
        task=new.task,
        context=new.context,
        git_branch=new.git_branch,
        files_id=new.files_id,
        image=new.image,
        cpus=new.grant.cpus,
        memory_gb=new.grant.memory_gb,
        timeout_minutes=new.grant.timeout_minutes,
        created_at=at,
        started_at=None,
        completed_at=None,
        cancel_requested_at=None,
        container_id=None,
        exit_code=None,
        error=None,
        warnings=new.warnings,
        log_deleted_at=None,
        artifacts_deleted_at=None,
    )


def running_row(job_id: str, *, at: datetime) -> Job:
    """Return a small worker that was accepted and started at that time."""
    return Job(
        id=job_id,
        seq=1,
        client_job_id=None,
        request_sha256="",
        type=JobType.WORKER,
        status=JobStatus.RUNNING,
        phase=None,
        command="true",
        task=None,
        context=None,
        git_branch=None,
        files_id=None,
        image=IMAGE,
        cpus=1,
        memory_gb=1,
        timeout_minutes=1,
        created_at=at,
        started_at=at,
        completed_at=None,
        cancel_requested_at=None,
        container_id="c",
        exit_code=None,
        error=None,
        warnings=(),
        log_deleted_at=None,
        artifacts_deleted_at=None,
    )


def uploading_row(
    upload_id: str, project: str | None, at: datetime, expires_at: datetime
) -> Upload:
    """Return an upload as it is reserved or adopted."""
    return Upload(
        id=upload_id,
        project=project,
        state=UploadState.UPLOADING,
        created_at=milliseconds(at),
        expires_at=milliseconds(expires_at),
        finalizing_at=None,
        finalized_at=None,
        consumed_at=None,
        size_bytes=None,
        file_count=None,
        job_id=None,
    )
