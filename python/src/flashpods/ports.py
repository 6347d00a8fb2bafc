"""The small interfaces that the rules speak to; each has a real adapter and one in memory.

Every method is asynchronous and bounded: an adapter sets a deadline on each external call and
raises :class:`flashpods.errors.Unavailable` when it passes. Each verb says what a repeated or a
late call does, because recovery repeats them. ``flashpods.testing`` holds the in-memory adapters;
``tests/contract`` runs the same suite against both.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

from flashpods.errors import FlashpodsError
from flashpods.jobs.model import (
    Artifact,
    Capacity,
    Collected,
    Job,
    JobEvent,
    JobPage,
    NewJob,
    Outcome,
    Phase,
    Reserved,
    Upload,
)
from flashpods.jobs.states import JobStatus, Trigger


class Clock(Protocol):
    """Time, so that tests own it."""

    def now(self) -> datetime:
        """Return the wall clock, aware UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never step."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait that long."""
        ...


# --------------------------------------------------------------------------- records


class JobStore(Protocol):
    """The jobs, their events and their artifacts' names; one transaction a call."""

    async def submit(
        self,
        new: NewJob,
        *,
        capacity: Capacity,
        at: datetime,
        refuse: FlashpodsError | None = None,
    ) -> tuple[Job, bool]:
        """Admit a job, or find the one with the same key; durable when it returns.

        In one transaction: the key, the claim of the upload, the sum of reserved resources.
        ``refuse`` is raised for any request that would create a job.

        Returns:
            The job, and whether this call created it.

        Raises:
            Conflict: ``idempotency_conflict`` (same key, other request), ``upload_not_finalized``,
                ``upload_already_consumed`` (consumed, or claimed by another job).
            NotFound: ``upload_not_found`` (also when expired).
            InsufficientResources: 429 with requested, available, host_capacity, running_jobs.
            InsufficientStorage: the database's disk is full.
            Unavailable: ``service_unavailable`` while draining (an existing key still answers).
        """
        ...

    async def get(self, job_id: str) -> Job | None:
        """Return the row."""
        ...

    async def events(self, job_id: str) -> list[JobEvent]:
        """Return the job's history, oldest first."""
        ...

    async def page(
        self, *, statuses: Sequence[JobStatus] | None, limit: int, cursor: int | None
    ) -> JobPage:
        """Return a page, newest first; ``total`` counts all that match, whatever the page."""
        ...

    async def active(self) -> list[Job]:
        """Return the jobs that hold resources, oldest first."""
        ...

    async def reserved(self) -> Reserved:
        """Return what active jobs hold."""
        ...

    async def advance(
        self,
        job_id: str,
        expected: JobStatus,
        trigger: Trigger,
        *,
        why: str,
        at: datetime,
        outcome: Outcome | None = None,
        phase: Phase | None = None,
        container_id: str | None = None,
        artifacts: Iterable[Artifact] | None = None,
    ) -> Job:
        """Move a job along one edge and write its event, in one transaction.

        ``phase`` replaces the phase (None clears it). STARTED sets ``started_at`` and consumes the
        job's upload; an ending trigger sets ``completed_at``, replaces the artifact rows if given,
        and expires an upload that was never consumed; CLEANED frees the idempotency key and drops
        the artifact rows. Endings and CLEANED are durable when it returns.

        Raises:
            StaleState: the job is not in ``expected``, or ``trigger`` would end an active job other
                than by CANCEL although its cancellation is recorded.
            IllegalTransition: the table has no such edge.
        """
        ...

    async def note(
        self,
        job_id: str,
        *,
        phase: Phase | None = None,
        warnings: Sequence[str] = (),
        log_deleted_at: datetime | None = None,
        artifacts_deleted_at: datetime | None = None,
    ) -> Job:
        """Change what is not state: set the phase, append warnings, date a deletion.

        ``None`` leaves a field as it is; a warning is kept once, and 500 at most. Raises NotFound
        ``job_not_found``.
        """
        ...

    async def request_cancel(self, job_id: str, *, at: datetime) -> Job:
        """Record the request durably; a repeated call keeps the first time.

        Raises:
            NotFound: ``job_not_found``.
            Conflict: ``job_already_terminal``.
        """
        ...

    async def artifacts(self, job_id: str) -> list[Artifact]:
        """Return the artifact rows, by name."""
        ...

    async def known(self, job_ids: Sequence[str]) -> dict[str, Job]:
        """Return the rows of those ids that exist."""
        ...

    async def ended(
        self, *, before: datetime, limit: int, kept: Literal["log", "artifacts"] | None = None
    ) -> list[Job]:
        """Return ended or cleaning jobs with ``completed_at < before``, oldest first.

        ``kept`` leaves out those whose log, or artifacts, are already deleted.
        """
        ...

    async def draining(self) -> bool:
        """Return whether new jobs are refused."""
        ...

    async def set_draining(self, draining: bool, *, at: datetime) -> None:
        """Refuse new jobs from now on, or accept them again; durable."""
        ...

    async def ping(self) -> None:
        """Prove that the database answers a read; raise Unavailable if not."""
        ...


class UploadStore(Protocol):
    """The uploads and the transfers that write to them."""

    async def reserve(
        self, upload_id: str, *, project: str | None, at: datetime, expires_at: datetime
    ) -> Upload:
        """Insert ``uploading``; durable. Raises Conflict ``upload_exists``."""
        ...

    async def adopt(self, upload_id: str, *, at: datetime, expires_at: datetime) -> Upload:
        """Return the row, inserting ``uploading`` dated ``at`` if there is none."""
        ...

    async def get_upload(self, upload_id: str) -> Upload | None:
        """Return the row."""
        ...

    async def uploads(self, *states: str) -> list[Upload]:
        """Return the uploads in those states, oldest first."""
        ...

    async def begin_finalize(self, upload_id: str, *, at: datetime) -> Upload:
        """Close the upload to new transfers (``finalizing_at``), in one statement with its checks.

        Repeated after a crash it succeeds again: the caller looks at what is there.

        Raises:
            NotFound: ``upload_not_found``.
            Conflict: ``upload_in_progress`` (a live transfer), ``upload_already_finalized``,
                ``upload_already_consumed``.
            Gone: ``upload_expired``.
        """
        ...

    async def abort_finalize(self, upload_id: str) -> None:
        """Open it again after a refusal; a no-op unless it is uploading."""
        ...

    async def complete_finalize(
        self,
        upload_id: str,
        *,
        at: datetime,
        expires_at: datetime,
        size_bytes: int,
        file_count: int,
        total_quota_bytes: int,
    ) -> Upload:
        """Make it ``finalized``; durable; a repeated call returns the row.

        Raises InsufficientStorage if all finalized, unconsumed uploads would pass the total quota.
        """
        ...

    async def expire(self, upload_id: str, *, at: datetime) -> Upload | None:
        """Make an ``uploading`` or ``finalized`` upload ``expired``; durable.

        Returns the row, or None when it may not expire (unknown, consumed, claimed by an active
        job, a live transfer writes to it, or a finalize is at work). Repeated: the row.
        """
        ...

    async def drop_expired(self, *, before: datetime) -> int:
        """Delete rows expired or consumed before that time; return how many."""
        ...


# --------------------------------------------------------------------------- containers


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A bind mount; ``source`` is a host path."""

    source: Path
    target: str
    read_only: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a container may use. ``memory_bytes`` includes swap: there is none beside it."""

    cpus: int
    memory_bytes: int
    pids: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """All that the engine needs; the labels are always written by the adapter from these fields."""

    job_id: str
    job_type: str
    name: str
    image: str
    argv: tuple[str, ...]
    env: dict[str, str]
    workdir: str
    mounts: tuple[Mount, ...]
    limits: Limits
    backstop_seconds: int  # the engine kills the container then, whether or not we are up
    log_path: Path  # where the engine writes the raw output
    enforce_limits: bool  # False: do not ask for limits that this host cannot enforce


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerState:
    """A container as the engine sees it."""

    id: str
    name: str
    job_id: str
    status: str  # created, initialized, running, exited (every dead state is "exited")
    pid: int | None
    exit_code: int | None  # when exited: 137 after the backstop, None where its status was lost
    oom_killed: bool
    backstop_hit: bool
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def running(self) -> bool:
        """Whether its command executes."""
        return self.status == "running"

    @property
    def exited(self) -> bool:
        """Whether it has run and is dead."""
        return self.status == "exited"


class ImageError(Exception):
    """The image is not to be had; ``code`` is ``image_not_found`` or ``image_pull_failed``."""

    def __init__(self, code: str, message: str) -> None:
        """Keep the code beside the message."""
        super().__init__(message)
        self.code = code


class ContainerError(Exception):
    """The engine refused a container for good (not for lack of time); the job fails with it."""


class ContainerRuntime(Protocol):
    """A container engine. Every call has a deadline and raises Unavailable when it passes."""

    async def ping(self) -> None:
        """Return when the engine answers."""
        ...

    async def ensure_image(self, image: str, progress: Callable[[str], Awaitable[None]]) -> None:
        """Have the image here, pulling it if needed; ``progress`` gets lines for the job's log.

        Raises ImageError. A repeated call is cheap.
        """
        ...

    def limits_enforceable(self) -> bool:
        """Whether this host has the controllers that hold CPU, memory and PID limits.

        Raises Unavailable until the engine has answered a ``ping`` or ``ensure_image``.
        """
        ...

    async def create(self, spec: ContainerSpec) -> str:
        """Create and initialise the container (its cgroup exists, its command does not run yet).

        Repeated: the container of that name and job is returned, whatever its state.
        Raises ContainerError; Unavailable also when the image has just gone: have it again.
        """
        ...

    async def limits(self, container_id: str) -> Limits | None:
        """Read the limits back from the container's cgroup; None where there are none."""
        ...

    async def start(self, container_id: str) -> None:
        """Let the command execute. On a running or exited container it does nothing.

        Raises ContainerError.
        """
        ...

    async def inspect(self, name_or_id: str) -> ContainerState | None:
        """Return what the engine knows; None if there is no such container."""
        ...

    async def wait(self, container_id: str) -> ContainerState | None:
        """Return once the container is dead and its output is written; None if it vanished.

        The one call without a deadline: it lasts as long as the job and survives an engine that
        restarts; the caller cancels it.
        """
        ...

    async def kill(self, container_id: str, signal: str) -> None:
        """Send ``SIGTERM`` to PID 1, or ``SIGKILL`` to all; a no-op on a dead or absent one."""
        ...

    async def remove(self, name_or_id: str) -> None:
        """Kill and remove; absent is fine."""
        ...

    async def containers(self) -> list[ContainerState]:
        """Return every container with the label ``flashpods-job=true``, in any state."""
        ...

    async def trim_images(self, budget_bytes: int) -> int:
        """Remove the oldest unused images beyond the budget; return how many went.

        Images with the label ``flashpods-keep=true`` and ``localhost/`` images stay.
        """
        ...


# --------------------------------------------------------------------------- files


@dataclass(frozen=True, slots=True, kw_only=True)
class LogTail:
    """The end of a log. ``total_bytes`` and ``next_offset`` count bytes of complete lines."""

    output: str
    lines: int
    truncated: bool
    total_bytes: int
    offset: int  # where ``output`` begins
    next_offset: int


class LogStore(Protocol):
    """The jobs' logs: ``[HH:MM:SS.mmm] text`` lines, capped, followed by byte offset."""

    async def write(self, job_id: str, text: str, *, at: datetime) -> None:
        """Append one line of ours (pull progress) before the container starts."""
        ...

    def capture_path(self, job_id: str) -> Path:
        """Return where the engine is to write the job's raw output."""
        ...

    async def follow(self, job_id: str) -> None:
        """Begin, or after a restart resume, to turn raw output into the log; repeated: a no-op."""
        ...

    async def drain(self, job_id: str) -> None:
        """Take in all that the dead container wrote, then stop following and drop the raw output.

        Repeated, or on a job never followed: takes what is there.
        """
        ...

    async def tail(self, job_id: str, lines: int) -> LogTail | None:
        """Return the last lines; None if there is no log. Costs by the tail, not by the file."""
        ...

    async def read(self, job_id: str, offset: int, limit: int) -> LogTail | None:
        """Return complete lines from byte ``offset``: at most ``limit`` bytes, but one line."""
        ...

    async def changed(self, job_id: str, offset: int, timeout: float) -> None:
        """Return when the log has complete lines beyond ``offset``, is finished, or time is up."""
        ...

    async def delete(self, job_id: str) -> None:
        """Delete log and raw output; absent is fine."""
        ...

    async def stored(self) -> list[tuple[str, int]]:
        """Return (job id, bytes on disk) of every log, raw output included."""
        ...

    async def close(self) -> None:
        """Stop following everything; nothing is lost, the next process resumes."""
        ...


class ArtifactStore(Protocol):
    """The jobs' artifacts: a staging directory while they run, the collected names afterwards."""

    async def prepare(self, job_id: str) -> Path:
        """Make the directory that the container sees as ``/artifacts``; repeated: the same."""
        ...

    async def collect(self, job_id: str, *, at: datetime) -> Collected:
        """Take the staged files of a dead container; repeated after a crash: the same result."""
        ...

    async def open(self, job_id: str, name: str) -> tuple[BinaryIO, int]:
        """Open a collected regular file beneath the job's directory: (file, size).

        Raises NotFound ``artifact_not_found``.
        """
        ...

    async def open_directory(self, job_id: str, name: str) -> int:
        """Open a collected directory beneath the job's directory; the caller closes the descriptor.

        Raises NotFound ``artifact_not_found``.
        """
        ...

    async def delete(self, job_id: str) -> None:
        """Delete staging and collected files; absent is fine."""
        ...

    async def stored(self) -> list[str]:
        """Return the ids of the jobs that have staged or collected files."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeSize:
    """What a tree holds; ``file_count`` counts everything but directories."""

    size_bytes: int
    file_count: int


class TreeTooLarge(Exception):
    """A tree passed the bytes it may hold."""


class Workspaces(Protocol):
    """The trees: in transfer, finalized, and as a job's ``/work``; all on one file system."""

    async def finalize(self, upload_id: str, *, max_bytes: int) -> TreeSize:
        """Measure and disarm the tree in transfer, then rename it out of the module.

        Owners become ours, setuid, setgid and sticky bits go, devices, sockets and FIFOs are
        deleted; links stay links. Repeated after a crash: finds the tree on either side.

        Raises:
            TreeTooLarge: nothing was moved.
            NotFound: ``upload_not_found``, there is no tree on either side.
        """
        ...

    async def claim(self, upload_id: str | None, job_id: str) -> Path | None:
        """Rename the finalized tree to the job's workspace; without upload make an empty one.

        Repeated: the same path. Returns None if the tree is nowhere.
        """
        ...

    async def discard_upload(self, upload_id: str) -> None:
        """Delete the tree, in transfer or finalized; absent is fine."""
        ...

    async def discard(self, job_id: str) -> None:
        """Delete the job's workspace; absent is fine."""
        ...

    async def keep_as_base(self, job_id: str, project: str, *, keep: int) -> None:
        """Make a workspace that no job could write to the project's base for later transfers.

        Replaces the project's former base and deletes the oldest bases beyond ``keep``. Absent is
        fine.
        """
        ...

    async def base(self, project: str) -> str | None:
        """Return the path of the project's base within the rsync module (``/.bases/<project>``)."""
        ...

    async def transferring(self) -> list[tuple[str, datetime]]:
        """Return (upload id, date) of every tree in the rsync module."""
        ...

    async def finalized(self) -> list[str]:
        """Return the upload ids of finalized trees."""
        ...

    async def claimed(self) -> list[str]:
        """Return the job ids of workspaces."""
        ...


class DiskGauge(Protocol):
    """How full the three trees are."""

    def usage(self) -> dict[str, float]:
        """Return tree path → used fraction (0 to 1) of its file system."""
        ...


class Changes(Protocol):
    """Wakes those who wait for a job to change, in this process."""

    def publish(self, job_id: str) -> None:
        """Say that the job's row changed."""
        ...

    async def wait(self, job_id: str, timeout: float) -> None:
        """Return on the next change of the job, or when time is up."""
        ...


JsonObject = dict[str, Any]
