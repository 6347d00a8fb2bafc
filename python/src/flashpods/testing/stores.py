"""The stores in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Literal

from flashpods.adapters.sqlite.refusals import (
    add_warnings,
    already_terminal,
    check_claim,
    check_complete,
    check_finalize,
    check_quota,
    finalizing,
    idempotency_conflict,
    job_not_found,
    now_draining,
    stale,
    upload_exists,
)
from flashpods.errors import FlashpodsError
from flashpods.jobs.admission import check_fits
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
    Outcome,
    Reserved,
    Step,
    Tally,
    Upload,
    UploadState,
)
from flashpods.jobs.states import ENDED, JobStatus, Trigger
from flashpods.jobs.states import advance as next_status
from flashpods.testing.clock import START, ManualClock
from flashpods.testing.rows import first_row, uploading_row
from flashpods.testing.rows import milliseconds as _ms
from flashpods.testing.tally import tally_of

__all__ = ["START", "ManualClock", "MemoryStore"]


class MemoryStore:
    """:class:`flashpods.ports.JobStore` and :class:`flashpods.ports.UploadStore` in memory.

    One event loop runs it and no method waits within, so each call is a transaction. The ids in
    ``transferring`` are uploads with a live transfer; a test sets them.
    """

    def __init__(self) -> None:
        self.transferring: set[str] = set()
        self._jobs: dict[str, Job] = {}
        self._events: list[JobEvent] = []
        self._keys: dict[str, str] = {}
        self._artifacts: dict[str, list[Artifact]] = {}
        self._uploads: dict[str, Upload] = {}
        self._expired_at: dict[str, datetime] = {}
        self._draining = False
        self._moves: Counter[UploadState] = Counter()
        self._finalized_bytes = 0

    async def close(self) -> None:
        """Do nothing; the real store has something to close."""

    # ------------------------------------------------------------------- jobs

    async def submit(
        self,
        new: NewJob,
        *,
        capacity: Capacity,
        at: datetime,
        refuse: FlashpodsError | None = None,
    ) -> tuple[Job, bool]:
        """Admit a job, or find the one with the same key."""
        holder = self._keys.get(new.client_job_id or "")
        if holder is not None:
            job = self._jobs[holder]
            if job.request_sha256 != new.request_sha256:
                raise idempotency_conflict(new.client_job_id, job.id)
            return job, False
        if refuse is not None:
            raise refuse
        if self._draining:
            raise now_draining()
        if new.files_id is not None:
            check_claim(self._uploads.get(new.files_id), new.files_id, at)
        check_fits(new.grant, self._reserved(), capacity)
        job = first_row(new, seq=len(self._jobs) + 1, at=_ms(at))
        self._jobs[job.id] = job
        self._event(job.id, None, job.status, at, "accepted")
        if new.client_job_id is not None:
            self._keys[new.client_job_id] = job.id
        if new.files_id is not None:
            self._change_upload(new.files_id, job_id=job.id)
        return job, True

    async def get(self, job_id: str) -> Job | None:
        """Return the row."""
        return self._jobs.get(job_id)

    async def events(self, job_id: str) -> list[JobEvent]:
        """Return the job's history, oldest first."""
        return [event for event in self._events if event.job_id == job_id]

    async def history(self, job_id: str) -> tuple[Job, list[JobEvent]] | None:
        """Return the row and its events."""
        job = self._jobs.get(job_id)
        return None if job is None else (job, await self.events(job_id))

    async def page(
        self, *, statuses: Sequence[JobStatus] | None, limit: int, cursor: int | None
    ) -> JobPage:
        """Return a page, newest first."""
        matching = [
            job
            for job in sorted(self._jobs.values(), key=lambda job: -job.seq)
            if statuses is None or job.status in statuses
        ]
        below = [job for job in matching if cursor is None or job.seq < cursor]
        jobs = below[:limit]
        more = len(below) > limit and bool(jobs)
        return JobPage(jobs=jobs, total=len(matching), next_cursor=jobs[-1].seq if more else None)

    async def active(self) -> list[Job]:
        """Return the jobs that hold resources, oldest first."""
        return [job for job in self._jobs.values() if job.active]

    async def reserved(self) -> Reserved:
        """Return what active jobs hold."""
        return self._reserved()

    async def advance(
        self,
        job_id: str,
        expected: JobStatus,
        trigger: Trigger,
        step: Step,
    ) -> Job:
        """Move a job along one edge and write its event."""
        target = next_status(expected, trigger)
        job = self._jobs.get(job_id)
        overruled = target in ENDED and trigger is not Trigger.CANCEL
        if (
            job is None
            or job.status is not expected
            or (overruled and job.cancel_requested_at is not None)
        ):
            raise stale(job, job_id, expected.value)
        self._jobs[job_id] = job = replace(
            job,
            status=target,
            phase=step.phase,
            container_id=step.container_id or job.container_id,
        )
        self._event(job_id, expected, target, step.at, step.why)
        if trigger is Trigger.STARTED:
            job = replace(job, started_at=_ms(step.at))
            self._settle_upload(job_id, UploadState.CONSUMED, step.at)
        elif target in ENDED:
            end = step.outcome or Outcome()
            job = replace(job, completed_at=_ms(step.at), exit_code=end.exit_code, error=end.error)
            self._settle_upload(job_id, UploadState.EXPIRED, step.at)
            if step.artifacts is not None:
                self._artifacts[job_id] = list(step.artifacts)
        elif trigger is Trigger.CLEANED:
            self._keys = {key: holder for key, holder in self._keys.items() if holder != job_id}
            self._artifacts.pop(job_id, None)
        self._jobs[job_id] = job
        return job

    async def note(self, job_id: str, note: Note) -> Job:
        """Set the phase, append warnings that are not there yet, date a deletion."""
        job = self._jobs.get(job_id)
        if job is None:
            raise job_not_found(job_id)
        log, artifacts = note.log_deleted_at, note.artifacts_deleted_at
        self._jobs[job_id] = job = replace(
            job,
            phase=note.phase or job.phase,
            warnings=add_warnings(job.warnings, note.warnings),
            log_deleted_at=_ms(log) if log else job.log_deleted_at,
            artifacts_deleted_at=_ms(artifacts) if artifacts else job.artifacts_deleted_at,
        )
        return job

    async def request_cancel(self, job_id: str, *, at: datetime) -> Job:
        """Record the request; a repeated call keeps the first time."""
        job = self._jobs.get(job_id)
        if job is None:
            raise job_not_found(job_id)
        if not job.active:
            raise already_terminal(job)
        if job.cancel_requested_at is None:
            self._jobs[job_id] = job = replace(job, cancel_requested_at=_ms(at))
        return job

    async def artifacts(self, job_id: str) -> list[Artifact]:
        """Return the artifact rows, by name."""
        return sorted(self._artifacts.get(job_id, []), key=lambda artifact: artifact.name)

    async def known(self, job_ids: Sequence[str]) -> dict[str, Job]:
        """Return the rows of those ids that exist."""
        return {job_id: self._jobs[job_id] for job_id in job_ids if job_id in self._jobs}

    async def fates(self, job_ids: Sequence[str]) -> dict[str, JobFate]:
        """Return the same of any number of ids, but only what the cleanup asks."""
        return {
            job.id: JobFate(
                job.seq,
                job.status,
                job.completed_at,
                job.log_deleted_at,
                job.artifacts_deleted_at,
            )
            for job in (await self.known(job_ids)).values()
        }

    async def ended(
        self, *, before: datetime, limit: int, kept: Literal["log", "artifacts"] | None = None
    ) -> list[Job]:
        """Return ended or cleaning jobs with ``completed_at < before``, oldest first."""
        wanted = ENDED | {JobStatus.CLEANING}
        dated = [
            (job.completed_at, job.seq, job)
            for job in self._jobs.values()
            if job.status in wanted and job.completed_at and job.completed_at < _ms(before)
            if not (kept == "log" and job.log_deleted_at)
            if not (kept == "artifacts" and job.artifacts_deleted_at)
        ]
        return [job for _, _, job in sorted(dated, key=lambda row: row[:2])[:limit]]

    async def draining(self) -> bool:
        """Return whether new jobs are refused."""
        return self._draining

    async def set_draining(self, draining: bool, *, at: datetime) -> None:  # noqa: ARG002 - port
        """Refuse new jobs from now on, or accept them again."""
        self._draining = draining

    async def tally(self) -> Tally:
        """Return what the records add up to."""
        return tally_of(
            self._jobs,
            self._events,
            list(self._uploads.values()),
            moves=self._moves,
            finalized_bytes=self._finalized_bytes,
            draining=self._draining,
        )

    async def artifact_bytes(self) -> int:
        """Return the size of the artifacts that are not deleted."""
        kept = {job.id for job in self._jobs.values() if job.artifacts_deleted_at is None}
        return sum(a.size_bytes for key in kept for a in self._artifacts.get(key, []))

    async def ping(self) -> None:
        """Memory always answers."""

    def _reserved(self) -> Reserved:
        held = [job for job in self._jobs.values() if job.active]
        return Reserved(
            cpus=sum(job.cpus for job in held),
            memory_gb=sum(job.memory_gb for job in held),
            jobs=len(held),
        )

    def _event(
        self, job_id: str, source: JobStatus | None, target: JobStatus, at: datetime, why: str
    ) -> None:
        event = JobEvent(job_id=job_id, from_status=source, to_status=target, at=_ms(at), why=why)
        self._events.append(event)

    # ------------------------------------------------------------------- uploads

    async def reserve(
        self, upload_id: str, *, project: str | None, at: datetime, expires_at: datetime
    ) -> Upload:
        """Insert ``uploading``."""
        if upload_id in self._uploads:
            raise upload_exists(upload_id)
        return self._add_upload(uploading_row(upload_id, project, at, expires_at))

    async def adopt(self, upload_id: str, *, at: datetime, expires_at: datetime) -> Upload:
        """Return the row, inserting ``uploading`` dated ``at`` if there is none."""
        known = self._uploads.get(upload_id)
        return known or self._add_upload(uploading_row(upload_id, None, at, expires_at))

    async def get_upload(self, upload_id: str) -> Upload | None:
        """Return the row."""
        return self._uploads.get(upload_id)

    async def uploads(self, *states: str) -> list[Upload]:
        """Return the uploads in those states, oldest first."""
        found = [upload for upload in self._uploads.values() if upload.state in states]
        return sorted(found, key=lambda upload: upload.created_at)

    async def begin_finalize(self, upload_id: str, *, at: datetime) -> Upload:
        """Close the upload to new transfers."""
        upload = self._uploads.get(upload_id)
        check_finalize(upload, upload_id, at, live=upload_id in self.transferring)
        assert upload is not None, "check_finalize refuses an unknown upload"
        return self._change_upload(upload_id, finalizing_at=_ms(at))

    async def abort_finalize(self, upload_id: str) -> None:
        """Open it again after a refusal; a no-op unless it is uploading."""
        upload = self._uploads.get(upload_id)
        if upload is not None and upload.state is UploadState.UPLOADING:
            self._change_upload(upload_id, finalizing_at=None)

    async def complete_finalize(self, upload_id: str, tree: FinalTree) -> Upload:
        """Make it ``finalized``; a repeated call returns the row."""
        if not check_complete(self._uploads.get(upload_id), upload_id):
            return self._uploads[upload_id]
        stored = sum(u.size_bytes or 0 for u in await self.uploads(UploadState.FINALIZED))
        check_quota(stored, tree.size_bytes, tree.total_quota_bytes)
        return self._change_upload(
            upload_id,
            state=UploadState.FINALIZED,
            finalizing_at=None,
            finalized_at=_ms(tree.at),
            expires_at=_ms(tree.expires_at),
            size_bytes=tree.size_bytes,
            file_count=tree.file_count,
        )

    async def expire(self, upload_id: str, *, at: datetime) -> Upload | None:
        """Make an ``uploading`` or ``finalized`` upload ``expired``."""
        upload = self._uploads.get(upload_id)
        if upload is None or upload.state is UploadState.EXPIRED:
            return upload
        holder = self._jobs.get(upload.job_id or "")
        if upload.state is UploadState.CONSUMED or (holder is not None and holder.active):
            return None
        if upload_id in self.transferring or finalizing(upload, at):
            return None
        self._expired_at[upload_id] = _ms(at)
        return self._change_upload(
            upload_id, state=UploadState.EXPIRED, expires_at=None, finalizing_at=None
        )

    async def drop_expired(self, *, before: datetime) -> int:
        """Delete rows expired or consumed before that time; return how many."""
        old = [
            upload.id
            for upload in self._uploads.values()
            if (ended := upload.consumed_at or self._expired_at.get(upload.id)) is not None
            and ended < _ms(before)
        ]
        for upload_id in old:
            del self._uploads[upload_id]
            self._expired_at.pop(upload_id, None)
        return len(old)

    def _add_upload(self, upload: Upload) -> Upload:
        self._uploads[upload.id] = upload
        self._moves[upload.state] += 1
        return upload

    def _change_upload(self, upload_id: str, **changes: object) -> Upload:
        before = self._uploads[upload_id]
        changed = replace(before, **changes)  # type: ignore[arg-type] # by name
        self._uploads[upload_id] = changed
        if changed.state is not before.state:
            self._moves[changed.state] += 1
            if changed.state is UploadState.FINALIZED:
                self._finalized_bytes += changed.size_bytes or 0
        return changed

    def _settle_upload(self, job_id: str, state: UploadState, at: datetime) -> None:
        for upload in list(self._uploads.values()):
            if upload.job_id == job_id and upload.state is UploadState.FINALIZED:
                consumed = _ms(at) if state is UploadState.CONSUMED else None
                if consumed is None:
                    self._expired_at[upload.id] = _ms(at)
                self._change_upload(upload.id, state=state, expires_at=None, consumed_at=consumed)
