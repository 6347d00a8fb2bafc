"""Which names in our directories are ours: all others are neither listed nor touched."""

from __future__ import annotations

from flashpods.jobs.names import JOB_ID, UPLOAD_ID


def is_job_id(name: str) -> bool:
    """Whether a name found on disk can be a job's: 16 hexadecimal digits."""
    return JOB_ID.match(name) is not None


def is_upload_id(name: str) -> bool:
    """Whether a name found on disk can be an upload's."""
    return UPLOAD_ID.match(name) is not None
