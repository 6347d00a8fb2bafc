"""What retention and quota take away; each item on its own, so that one failure stops no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import structlog

from flashpods import failpoints
from flashpods.errors import FlashpodsError, StaleState, Unavailable
from flashpods.jobs.model import Job, JobFate, Note, Step, UploadState
from flashpods.jobs.names import UPLOAD_ID
from flashpods.jobs.states import TERMINAL, JobStatus, Trigger
from flashpods.ports import (
    ArtifactStore,
    Clock,
    ContainerRuntime,
    JobStore,
    LogStore,
    UploadStore,
    Workspaces,
)

log = structlog.get_logger(__name__)

Act = Coroutine[Any, Any, object]
Items = AsyncIterator[tuple[str, Act]]
"""What a step finds: a name for the log, and the act that deals with it (0, False: not done)."""

CLEANABLE = TERMINAL - {JobStatus.CLEANED}
SWEEPS: Final = frozenset({"rows", "spares", "bases", "images"})
"""Names of acts that find out themselves whether there is anything to do."""
STEPS: Final = (
    "adopt_uploads",
    "expire_uploads",
    "delete_artifacts",
    "finish_jobs",
    "trim_logs",
    "sweep_uploads",
    "sweep_trees",
    "sweep_job_files",
    "sweep_staged",
    "sweep_containers",
    "trim_images",
)
"""A round, in its order; each is a method of :class:`Cleaner`."""

BATCH = 500  # jobs looked at per round; the next round takes the rest
DRY = 100_000  # jobs counted at most by a look that changes nothing
FINALIZE_TIME = timedelta(seconds=300)  # how long a finalize may be at work on a tree
BASES_TIME = timedelta(days=7)  # how long a base is kept that no later job replaces


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long things are kept (contract section 8)."""

    logs: timedelta
    jobs: timedelta  # at the latest then a job is cleaned, however long logs are kept
    artifacts: timedelta
    uploads: timedelta  # how long an unfinished upload may take
    rows: timedelta  # how long rows of ended uploads are kept
    orphan_grace: timedelta
    logs_total_bytes: int
    images_total_bytes: int


@dataclass(slots=True)
class Report:
    """What one round did: counts by kind, and the failures it will retry."""

    done: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    dry: bool = False  # only look: ``done`` says what would be done

    def count(self, kind: str, *, failed: bool = False) -> None:
        """Add one."""
        book = self.failed if failed else self.done
        book[kind] = book.get(kind, 0) + 1


class Cleaner:
    """The reaper behind ``flashpods-cleanup``."""

    def __init__(
        self,
        *,
        store: JobStore,
        uploads: UploadStore,
        logs: LogStore,
        artifacts: ArtifactStore,
        workspaces: Workspaces,
        runtime: ContainerRuntime,
        clock: Clock,
        retention: Retention,
        every: float,
        told: Callable[[Report, float], None] = lambda _report, _seconds: None,
    ) -> None:
        """Build it.

        Args:
            store: the records, as are ``uploads``.
            uploads: those of uploads.
            logs: the jobs' output.
            artifacts: what the jobs left.
            workspaces: the trees.
            runtime: the engine.
            clock: the time.
            retention: how long things are kept.
            every: the pause between rounds in seconds.
            told: gets each round's report and the seconds that it took; may raise OSError.
        """
        self._store = store
        self._uploads = uploads
        self._logs = logs
        self._artifacts = artifacts
        self._workspaces = workspaces
        self._runtime = runtime
        self._clock = clock
        self._keep = retention
        self._every = every
        self._told = told

    async def run(self, stop: asyncio.Event) -> None:
        """Clean every ``every`` seconds until ``stop`` is set; a round at work is broken off.

        What it was at, the next one finds, as after a crash.
        """
        stopped = asyncio.create_task(stop.wait())
        while not stop.is_set():
            once = asyncio.create_task(self.run_once())
            await asyncio.wait({once, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not once.done():
                once.cancel()
                await asyncio.gather(once, return_exceptions=True)
                log.info("cleanup_broken_off")
                break
            report = once.result()
            if report.done or report.failed:
                log.info("cleaned", done=report.done, failed=report.failed)
            await asyncio.wait({stopped}, timeout=self._every)
        stopped.cancel()

    async def run_once(self, *, dry: bool = False) -> Report:
        """Do one round and say what it did; nothing raises.

        ``dry`` only looks: what the sweeps of :data:`SWEEPS` would find is not known then.
        """
        began = self._clock.monotonic()
        report = await self._round(dry=dry)
        if dry:
            return report
        try:
            await asyncio.to_thread(self._told, report, self._clock.monotonic() - began)
        except OSError as e:
            log.warning("cleanup_status_not_written", reason=str(e))
        return report

    async def _round(self, *, dry: bool) -> Report:
        report = Report(dry=dry)
        now = self._clock.now()
        for step in STEPS:
            find: Callable[[datetime], Items] = getattr(self, f"_{step}")
            await self._each(report, step, find(now))
        return report

    async def _each(self, report: Report, kind: str, items: Items) -> None:
        """Run each item's act; count it if it did something, count and log it if it failed."""
        try:
            async for name, act in items:
                try:
                    if report.dry:
                        act.close()
                        if name not in SWEEPS:
                            report.count(kind)
                    elif await act != 0:
                        report.count(kind)
                except Exception as e:  # noqa: BLE001 - a defect of one item stops no other
                    _failed(report, kind, e, item=name)
        except Exception as e:  # noqa: BLE001 - nor that of a step the other steps
            _failed(report, kind, e)

    # ------------------------------------------------------------------ uploads

    async def _adopt_uploads(self, _now: datetime) -> Items:
        # A tree in the rsync module that no row knows is an upload in progress.
        for upload_id, since in await self._workspaces.transferring():
            if UPLOAD_ID.match(upload_id) and await self._uploads.get_upload(upload_id) is None:
                expires = since + self._keep.uploads
                yield upload_id, self._adopt(upload_id, since, expires)

    async def _adopt(self, upload_id: str, since: datetime, expires: datetime) -> None:
        await self._uploads.adopt(upload_id, at=since, expires_at=expires)
        failpoints.hit("cleanup.after_adopt")

    async def _expire_uploads(self, now: datetime) -> Items:
        for upload in await self._uploads.uploads(UploadState.UPLOADING, UploadState.FINALIZED):
            if upload.expires_at is not None and upload.expires_at <= now:
                yield upload.id, self._expire(upload.id, now)
        yield "rows", self._uploads.drop_expired(before=now - self._keep.rows)

    async def _expire(self, upload_id: str, now: datetime) -> int:
        """Take it away, unless it is written to or an active job's."""
        if await self._uploads.expire(upload_id, at=now) is None:
            return 0
        failpoints.hit("cleanup.after_expire")
        await self._workspaces.discard_upload(upload_id)
        failpoints.hit("cleanup.after_upload")
        return 1

    async def _sweep_uploads(self, now: datetime) -> Items:
        # Trees whose row has ended: a crash came between the row and the deletion. And finalized
        # ones without a row: it was dropped, or lost with the database.
        ids = {upload_id for upload_id, _ in await self._workspaces.transferring()}
        old = set(await self._workspaces.finalized(before=self._left_alone(now))) - ids
        for upload_id in ids | set(await self._workspaces.finalized()):
            upload = await self._uploads.get_upload(upload_id)
            if upload is None:
                gone = upload_id in old
            else:
                gone = upload.state in {UploadState.EXPIRED, UploadState.CONSUMED}
            if gone:
                yield upload_id, self._workspaces.discard_upload(upload_id)

    async def _sweep_trees(self, now: datetime) -> Items:
        yield "spares", self._workspaces.sweep_spares(before=self._left_alone(now))
        yield "bases", self._workspaces.drop_bases(before=now - BASES_TIME)

    def _left_alone(self, now: datetime) -> datetime:
        """Return the time before which what a finalize was at work on is nobody's any more."""
        return now - self._keep.orphan_grace - FINALIZE_TIME

    # ------------------------------------------------------------------ output

    async def _delete_artifacts(self, now: datetime) -> Items:
        before = now - self._keep.artifacts
        for job in await self._store.ended(before=before, limit=BATCH, kept="artifacts"):
            yield job.id, self._drop_artifacts(job, now)

    async def _drop_artifacts(self, job: Job, now: datetime) -> None:
        # State first: a reader is told 410 before the files begin to go.
        await self._store.note(job.id, Note(artifacts_deleted_at=now))
        failpoints.hit("cleanup.after_artifacts_note")
        await self._artifacts.delete(job.id)
        failpoints.hit("cleanup.after_artifacts")

    async def finish_older(self, age: timedelta, *, dry: bool = False) -> Report:
        """Clean every job that ended that long ago, whatever the retention; nothing raises.

        What the API may still be tidying up after is left alone.
        """
        report = Report(dry=dry)
        now = self._clock.now()
        before = now - max(age, self._keep.orphan_grace)
        done = -1
        while sum(report.done.values()) != done:  # a batch at a time, until one changes nothing
            done = sum(report.done.values())
            await self._each(report, "finish_jobs", self._ended(before, now, DRY if dry else BATCH))
            if dry:
                break
        return report

    async def _finish_jobs(self, now: datetime) -> Items:
        async for item in self._ended(now - min(self._keep.logs, self._keep.jobs), now, BATCH):
            yield item

    async def _ended(self, before: datetime, now: datetime, limit: int) -> Items:
        for job in await self._store.ended(before=before, limit=limit):
            yield job.id, self._finish(job, now)

    async def finish(self, job_id: str) -> bool:
        """Clean one ended job now, whatever its retention; return whether it is clean.

        False, and nothing done: there is no such job, or it has not ended.
        """
        job = await self._store.get(job_id)
        if job is None or job.status not in CLEANABLE:
            return job is not None and job.status is JobStatus.CLEANED
        if await self._finish(job, self._clock.now(), why="asked for"):
            return True
        job = await self._store.get(job_id)
        return job is not None and job.status is JobStatus.CLEANED

    async def _finish(self, job: Job, now: datetime, why: str = "retention is over") -> int:
        """Clean an ended job; 0: another process was faster, at the first or the last step."""
        with suppress(StaleState):
            await self._clean(job, now, why)
            return 1
        return 0

    async def _clean(self, job: Job, now: datetime, why: str) -> None:
        if job.status is not JobStatus.CLEANING:
            job = await self._store.advance(
                job.id, job.status, Trigger.CLEAN, Step(why=why, at=now)
            )
        failpoints.hit("cleanup.after_cleaning")
        await self._logs.delete(job.id)
        failpoints.hit("cleanup.after_finish_log")
        await self._artifacts.delete(job.id)
        failpoints.hit("cleanup.after_finish_artifacts")
        if not await self._workspaces.discard(job.id):
            raise Unavailable("the workspace is still being worked on; the next round tries again")
        failpoints.hit("cleanup.after_finish_workspace")
        step = Step(why="log and artifacts deleted", at=now)
        await self._store.advance(job.id, job.status, Trigger.CLEANED, step)
        failpoints.hit("cleanup.after_cleaned")

    async def _trim_logs(self, now: datetime) -> Items:
        # Over the total, the oldest finished job's log goes first.
        sizes = dict(await self._logs.stored())
        over = sum(sizes.values()) - self._keep.logs_total_bytes
        if over <= 0:
            return
        fates = await self._store.fates(sorted(sizes))
        over_with = [(fate, job_id) for job_id, fate in fates.items() if fate.status in CLEANABLE]
        for _fate, job_id in sorted(
            over_with, key=lambda it: (it[0].completed_at or now, it[0].seq)
        ):
            if over <= 0:
                return
            over -= sizes[job_id]
            yield job_id, self._drop_log(job_id, now)

    async def _drop_log(self, job_id: str, now: datetime) -> None:
        await self._store.note(job_id, Note(log_deleted_at=now))
        failpoints.hit("cleanup.after_log_note")
        await self._logs.delete(job_id)
        failpoints.hit("cleanup.after_log")

    # ------------------------------------------------------------------ leftovers

    async def _sweep_job_files(self, now: datetime) -> Items:
        # Files of jobs that no row knows, or whose rows say that they should be gone.
        work = set(await self._workspaces.claimed())
        artifacts = set(await self._artifacts.stored())
        logs = {job_id for job_id, _ in await self._logs.stored()}
        ids = sorted(work | artifacts | logs)
        known = await self._store.fates(ids)
        for job_id in ids:
            job = known.get(job_id)
            if job_id in work and self._settled(job, now):
                yield job_id, self._workspaces.discard(job_id)
            gone = job is None or job.status is JobStatus.CLEANED
            if job_id in artifacts and (gone or (job and job.artifacts_deleted_at is not None)):
                yield job_id, self._artifacts.delete(job_id)
            if job_id in logs and (gone or (job and job.log_deleted_at is not None)):
                yield job_id, self._logs.delete(job_id)

    async def _sweep_staged(self, now: datetime) -> Items:
        # What a collection left: too much to delete in its time, or a crash came before the end.
        staged = await self._artifacts.staged()
        known = await self._store.fates(staged)
        for job_id in staged:
            job = known.get(job_id)
            if job is not None and self._settled(job, now):
                yield job_id, self._artifacts.discard_staged(job_id)

    def _settled(self, job: JobFate | None, now: datetime) -> bool:
        """Whether nobody tidies up after the job any more: the API does so right after its end."""
        if job is None:
            return True
        ended = job.completed_at
        return job.status in TERMINAL and (ended is None or ended + self._keep.orphan_grace < now)

    async def _sweep_containers(self, now: datetime) -> Items:
        containers = await self._runtime.containers()
        known = await self._store.fates([c.job_id for c in containers])
        for container in containers:
            if self._settled(known.get(container.job_id), now):
                yield container.name, self._remove(container.id)

    async def _remove(self, container_id: str) -> None:
        await self._runtime.remove(container_id)
        failpoints.hit("cleanup.after_container")

    async def _trim_images(self, _now: datetime) -> Items:
        yield "images", self._runtime.trim_images(self._keep.images_total_bytes)


def _failed(report: Report, kind: str, error: Exception, *, item: str | None = None) -> None:
    """Count and log a failure; one that nobody foresaw with its traceback."""
    report.count(kind, failed=True)
    foreseen = isinstance(error, (OSError, FlashpodsError))
    log.warning("cleanup_failed", kind=kind, item=item, reason=str(error), exc_info=not foreseen)
