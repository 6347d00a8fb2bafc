"""What the tools take and answer; the schemas that clients see are made of these."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from flashpods.client.models import Artifact, Job

__all__ = [
    "ArtifactList",
    "ArtifactView",
    "Cpus",
    "Downloaded",
    "Files",
    "Image",
    "JobDetails",
    "JobId",
    "JobListing",
    "JobView",
    "Killed",
    "ManyJob",
    "ManyResult",
    "MemoryGb",
    "OutputView",
    "SearchResult",
    "Spawned",
    "TimeoutMinutes",
    "Waited",
]

JobId = Annotated[str, Field(min_length=1, max_length=64, description="The job's id.")]
Cpus = Annotated[
    int | None,
    Field(ge=1, description="Whole CPUs. Default 2; at most 8 for a worker, 4 for an agent."),
]
MemoryGb = Annotated[
    int | None,
    Field(ge=1, description="Memory in GB. Default 4; at most 16 for a worker, 8 for an agent."),
]
TimeoutMinutes = Annotated[
    int | None,
    Field(
        ge=1,
        description="The job is ended after that many minutes. Default 30 for a worker, 60 for an "
        "agent; at most 120.",
    ),
]
Image = Annotated[
    str | None,
    Field(
        max_length=255,
        description="Container image, such as python:3.12 or rust:1.80. Default: the host's, "
        "usually ubuntu:22.04, which has no compilers.",
    ),
]


class Files(BaseModel):
    """A local directory to push to the host; it is /work in the job."""

    model_config = ConfigDict(extra="forbid")

    local_path: str = Field(
        min_length=1,
        max_length=4096,
        description="The directory; relative to where the server was started.",
    )
    exclude: list[Annotated[str, Field(min_length=1, max_length=4096)]] | None = Field(
        default=None,
        max_length=1000,
        description="rsync patterns to leave out, instead of the default: .git, node_modules, "
        "target, __pycache__, .venv.",
    )


class JobView(BaseModel):
    """One job."""

    job_id: str
    type: str = Field(description="worker or agent")
    status: str = Field(
        description="pending, starting, running, completed (exit code 0), failed, timed_out, "
        "cancelled; cleaning and cleaned: ended, its output is deleted"
    )
    finished: bool = Field(description="nothing of it runs any more")
    phase: str | None = Field(default=None, description="while starting: pulling or creating")
    exit_code: int | None = None
    error: str | None = Field(default=None, description="why it failed, such as oom_killed")
    command: str | None = None
    task: str | None = None
    image: str | None = None
    cpus: int | None = None
    memory_gb: int | None = None
    timeout_minutes: int | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    seconds: float | None = Field(default=None, description="how long it runs or ran")
    cancel_requested: bool = False
    warnings: list[str] = Field(default_factory=list)

    @classmethod
    def fields_of(cls, job: Job) -> dict[str, Any]:
        """Return the fields for a job's row."""
        same: tuple[str, ...] = (
            "type",
            "status",
            "phase",
            "exit_code",
            "error",
            "command",
            "task",
            "image",
        )
        same += ("cpus", "memory_gb", "timeout_minutes", "created_at", "started_at")
        same += ("completed_at", "cancel_requested")
        return {
            **{name: getattr(job, name) for name in same},
            "job_id": job.id,
            "finished": job.terminal,
            "seconds": job.duration_seconds if job.terminal else job.elapsed_seconds,
            "warnings": list(job.warnings),
        }

    @classmethod
    def of(cls, job: Job) -> JobView:
        """Show a job's row."""
        return cls(**cls.fields_of(job))


class EventView(BaseModel):
    """One change of a job's state."""

    status: str
    at: datetime | None
    why: str


class JobDetails(JobView):
    """One job with its history."""

    events: list[EventView] = Field(default_factory=list)


class JobListing(BaseModel):
    """Jobs, newest first."""

    jobs: list[JobView]
    total: int = Field(description="how many there are in all with that status")


class Spawned(BaseModel):
    """A job that was accepted."""

    job_id: str
    status: str
    cpus: int | None = Field(default=None, description="granted; more than the most is clamped")
    memory_gb: int | None = None
    timeout_minutes: int | None = None
    uploaded_files: int | None = None
    uploaded_bytes: int | None = Field(default=None, description="the tree's size")
    sent_bytes: int | None = Field(default=None, description="what went over the wire for it")
    warnings: list[str] = Field(default_factory=list)
    next: str = Field(description="what to do next")


class Waited(JobView):
    """A job as it was when the wait ended."""

    output_tail: str | None = Field(
        default=None, description="the last lines, once it has finished"
    )
    artifacts: list[str] | None = Field(default=None, description="their names, once finished")
    next: str = Field(description="what to do next")


class OutputView(BaseModel):
    """The end of a job's log; lines begin with [HH:MM:SS.mmm] in UTC."""

    job_id: str
    output: str
    lines: int
    total_bytes: int = Field(description="of the whole log")
    truncated: bool = Field(description="the job wrote more than is kept: its end is missing")
    cut: bool = Field(default=False, description="lines at the beginning were left out here")


class Excerpt(BaseModel):
    """A piece of a log, with the numbers of its lines."""

    first_line: int
    last_line: int
    text: str


class SearchResult(BaseModel):
    """Where a log has what was looked for."""

    job_id: str
    looked_for: str
    matches: int = Field(description="lines of the log that match")
    shown: int = Field(description="matches that the excerpts show")
    excerpts: list[Excerpt]
    lines_searched: int
    note: str | None = None


class ArtifactView(BaseModel):
    """One thing that a job left in /artifacts."""

    name: str
    type: str = Field(description="file, or directory, which downloads as a tar archive")
    size_bytes: int
    sha256: str | None = None
    created_at: datetime | None = None

    @classmethod
    def of(cls, artifact: Artifact) -> ArtifactView:
        """Show an artifact's row."""
        return cls(
            name=artifact.name,
            type=artifact.type,
            size_bytes=artifact.size_bytes,
            sha256=artifact.sha256,
            created_at=artifact.created_at,
        )


class ArtifactList(BaseModel):
    """What a job left in /artifacts."""

    job_id: str
    artifacts: list[ArtifactView]


class Downloaded(BaseModel):
    """An artifact that is now on this machine."""

    path: str = Field(description="where it is, absolute")
    size_bytes: int
    sha256: str | None = Field(default=None, description="verified; a directory has none")


class Killed(BaseModel):
    """A job that was asked to end."""

    job_id: str
    status: str
    next: str


ManyStatus = Literal[
    "queued", "not_started", "pending", "starting", "running", "completed", "failed",
    "timed_out", "cancelled", "cleaning", "cleaned", "lost",
]  # fmt: skip


class ManyJob(BaseModel):
    """One command of a batch."""

    number: int
    label: str = Field(description="what tells it from the others")
    status: ManyStatus = Field(description="queued: waits for room on the host")
    job_id: str | None = None
    exit_code: int | None = None
    error: str | None = None
    seconds: float | None = None
    output_tail: str | None = Field(default=None, description="of the first that failed")


class ManyResult(BaseModel):
    """How a batch stands."""

    batch_id: str
    finished: bool = Field(description="every job has ended or will not be started")
    stopped_by: int | None = Field(default=None, description="number of the job that failed first")
    counts: dict[str, int] = Field(description="how many jobs in each status")
    jobs: list[ManyJob]
    sent_bytes: int | None = Field(
        default=None, description="what went over the wire, once for all"
    )
    next: str
