"""The port of the records: jobs, their events and artifacts, uploads."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, Protocol

from flashpods.errors import FlashpodsError
from flashpods.jobs.model import (
    Artifact,
    Capacity,
    FinalTree,
    Job,
    JobEvent,
    JobFate,
    JobPage,
    NewJob,
    Note,
    Reserved,
    Step,
    Tally,
    Upload,
)
from flashpods.jobs.states import JobStatus, Trigger


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

    async def history(self, job_id: str) -> tuple[Job, list[JobEvent]] | None:
        """Return the row and its events, as they were at one moment: the last led to the status."""
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
        step: Step,
    ) -> Job:
        """Move a job along one edge and write its event, in one transaction.

        STARTED sets ``started_at`` and consumes the
        job's upload; an ending trigger sets ``completed_at``, replaces the artifact rows if given,
        and expires an upload that was never consumed; CLEANED frees the idempotency key and drops
        the artifact rows. Endings and CLEANED are durable when it returns.

        Raises:
            StaleState: the job is not in ``expected``, or ``trigger`` would end an active job other
                than by CANCEL although its cancellation is recorded.
            IllegalTransition: the table has no such edge.
        """
        ...

    async def note(self, job_id: str, note: Note) -> Job:
        """Change what is not state: set the phase, append warnings, date a deletion.

        A warning is kept once, and 500 at most. Raises NotFound ``job_not_found``.
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

    async def fates(self, job_ids: Sequence[str]) -> dict[str, JobFate]:
        """Return the same of any number of ids, but only what the cleanup asks."""
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

    async def tally(self) -> Tally:
        """Return what the records add up to, of one moment; the cost does not grow with them."""
        ...

    async def artifact_bytes(self) -> int:
        """Return the size of the artifacts that are not deleted; the cost grows with them."""
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

    async def complete_finalize(self, upload_id: str, tree: FinalTree) -> Upload:
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
