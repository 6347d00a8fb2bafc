"""The records that travel along a job's line; all are frozen, changes make new ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final, NamedTuple

from flashpods.jobs.states import ACTIVE, TERMINAL, JobStatus

LABEL_MARK: Final = "flashpods-job"
LABEL_ID: Final = "flashpods-job-id"
LABEL_TYPE: Final = "flashpods-job-type"

EXIT_CODE: Final = "exit_code"
OTHER: Final = "other"
"""The reasons of a tally for a failed job without an error code, and with something else there."""


class JobType(StrEnum):
    """What a job runs: a command, or an autonomous agent on a branch."""

    WORKER = "worker"
    AGENT = "agent"


class Phase(StrEnum):
    """What an active job is doing within its state; shown as ``phase``."""

    PULLING = "pulling"  # its image is fetched
    CREATING = "creating"  # its workspace and container are made, its limits are checked
    STOPPING = "stopping"  # SIGTERM is out, the grace period runs
    COLLECTING = "collecting"  # its log is drained and its artifacts are taken


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What admission promises a job; whole numbers, already clamped to the type's maximum."""

    cpus: int
    memory_gb: int
    timeout_minutes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A validated, clamped request, ready for admission."""

    id: str
    client_job_id: str | None  # lower-case UUIDv4
    request_sha256: str  # of the canonical request, without client_job_id
    type: JobType
    command: str | None
    task: str | None
    context: str | None
    git_branch: str | None
    files_id: str | None
    image: str
    grant: Grant
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A row of ``jobs``. Times are aware UTC datetimes with millisecond precision."""

    id: str
    seq: int  # order of acceptance; the cursor of lists
    client_job_id: str | None
    request_sha256: str
    type: JobType
    status: JobStatus
    phase: Phase | None
    command: str | None
    task: str | None
    context: str | None
    git_branch: str | None
    files_id: str | None
    image: str
    cpus: int
    memory_gb: int
    timeout_minutes: int
    created_at: datetime
    started_at: datetime | None  # when the command began to execute
    completed_at: datetime | None
    cancel_requested_at: datetime | None
    container_id: str | None
    exit_code: int | None
    error: str | None
    warnings: tuple[str, ...]
    log_deleted_at: datetime | None
    artifacts_deleted_at: datetime | None

    @property
    def active(self) -> bool:
        """Whether the job holds resources."""
        return self.status in ACTIVE

    @property
    def terminal(self) -> bool:
        """Whether nothing of the job runs any more."""
        return self.status in TERMINAL

    @property
    def container_name(self) -> str:
        """The container's name, which makes "one container per job" the engine's own rule."""
        return container_name(self.id)


class JobFate(NamedTuple):
    """What the cleanup asks of many rows at once: how far each is on its way out."""

    seq: int
    status: JobStatus
    completed_at: datetime | None
    log_deleted_at: datetime | None
    artifacts_deleted_at: datetime | None


_CONTAINER = "job_"


def container_name(job_id: str) -> str:
    """Return the name of the job's container."""
    return f"{_CONTAINER}{job_id}"


def job_of(name: str) -> str | None:
    """Return the id of the job whose container bears the name; None if no job's could."""
    return name.removeprefix(_CONTAINER) if name.startswith(_CONTAINER) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent:
    """One change of state, kept for ever. ``from_status`` is None for the job's acceptance."""

    job_id: str
    from_status: JobStatus | None
    to_status: JobStatus
    at: datetime
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a job ended, as the terminal row shows it."""

    exit_code: int | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What changes together with a job's state; the times and the why go to its event too."""

    why: str
    at: datetime
    outcome: Outcome | None = None
    phase: Phase | None = None  # replaces the phase; None clears it
    container_id: str | None = None
    artifacts: tuple[Artifact, ...] | None = None  # None leaves the rows as they are


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What changes in a job's row beside its state; None leaves a field as it is."""

    phase: Phase | None = None
    warnings: tuple[str, ...] = ()  # appended, each once
    log_deleted_at: datetime | None = None
    artifacts_deleted_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What the host offers to jobs, after the configured reserve. Memory in GiB."""

    cpus: int
    memory_gb: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserved:
    """What active jobs hold of it."""

    cpus: int = 0
    memory_gb: int = 0
    jobs: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPage:
    """One page of a list, newest first. ``next_cursor`` is the ``seq`` to continue below."""

    jobs: list[Job]
    total: int
    next_cursor: int | None


class UploadState(StrEnum):
    """Where an upload is."""

    UPLOADING = "uploading"
    FINALIZED = "finalized"
    CONSUMED = "consumed"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A row of ``uploads``."""

    id: str
    project: str | None  # whose later uploads may start from this tree
    state: UploadState
    created_at: datetime
    expires_at: datetime | None  # None once consumed or expired
    finalizing_at: datetime | None  # set while finalize is at work: no transfer may begin
    finalized_at: datetime | None
    consumed_at: datetime | None
    size_bytes: int | None
    file_count: int | None
    job_id: str | None  # the job that has claimed it

    def overdue(self, at: datetime) -> bool:
        """Whether its time is over, whether or not the reaper has come by."""
        return self.state is UploadState.EXPIRED or (
            self.expires_at is not None and self.expires_at <= at and self.job_id is None
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalTree:
    """What is known of an upload's tree once it is closed, and what all trees may hold."""

    at: datetime
    expires_at: datetime
    size_bytes: int
    file_count: int
    total_quota_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A row of ``artifacts``: one top-level name of a job's ``/artifacts``."""

    name: str
    type: str  # "file" or "directory"
    size_bytes: int
    sha256: str | None  # None for a directory
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What collection found. ``error`` is an artifact error code, or None."""

    artifacts: list[Artifact] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The jobs that ended in one way. ``reason`` is a failed job's error code, else empty."""

    type: JobType
    status: JobStatus
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What the records add up to, whoever wrote them; the totals are of all time."""

    active: Mapping[tuple[JobStatus, JobType], int]
    reserved: Reserved
    draining: bool
    created: Mapping[JobType, int]
    ended: Mapping[Ended, int]
    uploads: Mapping[UploadState, tuple[int, int]]  # not consumed yet: how many, their bytes
    uploads_total: Mapping[UploadState, int]  # how many have ever been in that state
    uploads_finalized_bytes: int  # of all that were ever finalized
