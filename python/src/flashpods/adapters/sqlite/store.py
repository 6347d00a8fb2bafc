"""The store: :class:`flashpods.ports.JobStore` and :class:`flashpods.ports.UploadStore`."""

# ruff: noqa: S608 - only constants of this package are put into SQL; values are bound
from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

from flashpods.adapters.sqlite import damage, jobs, rows, swap, totals, uploads
from flashpods.adapters.sqlite.connection import connect_writer
from flashpods.adapters.sqlite.migrations import SchemaError, migrate
from flashpods.adapters.sqlite.reader import Reader
from flashpods.adapters.sqlite.writer import DEADLINE_SECONDS, Writer
from flashpods.errors import Conflict, FlashpodsError, Unavailable
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
from flashpods.jobs.states import ENDED, JobStatus, Trigger
from flashpods.jobs.states import advance as next_status

TRANSFER_ENDS_SECONDS: Final = 0.4
TRANSFER_LOOK_SECONDS: Final = 0.02
FATES_AT_ONCE: Final = 5000


class SqliteStore:
    """Both stores on one database; made by :meth:`open`, ended by :meth:`close`.

    Several processes may open the same database; each has one writer.
    """

    def __init__(self, path: Path, reader: Reader, writer: Writer, *, deadline: float) -> None:
        self._path = path
        self._reader = reader
        self._writer = writer
        self._deadline = deadline
        self._closed = False

    @classmethod
    async def open(cls, path: Path, *, deadline: float = DEADLINE_SECONDS) -> Self:
        """Create or migrate the database and start the writer.

        Args:
            path: the database file; its directory exists and is ours.
            deadline: seconds that each later call takes at most.

        Raises:
            SchemaError: the file can't be used or is damaged; the message is one line for a person
                and names the remedy.
        """
        return await asyncio.to_thread(cls._open, path, deadline)

    @classmethod
    def _open(cls, path: Path, deadline: float) -> Self:
        _refuse_half_restored(path)
        _refuse_damage(path)
        migrate(path)
        damage.mark_boot(path)
        writer = Writer(lambda: connect_writer(path), deadline=deadline)
        try:
            writer.start()
            reader = Reader(path, deadline=deadline)
        except sqlite3.Error as e:
            writer.close(deadline)
            raise SchemaError(f"database {path}: {e}") from e
        return cls(path, reader, writer, deadline=deadline)

    async def close(self) -> None:
        """Write what was accepted, then close; repeated: a no-op.

        Raises:
            Unavailable: the disk did not let the writer finish within the deadline.
        """
        if self._closed:
            return
        self._closed = True
        await asyncio.to_thread(self._reader.close)
        if not await asyncio.to_thread(self._writer.close, self._deadline):
            raise Unavailable("the database's disk does not answer; some writes may be lost")
        damage.forget_boot(self._path)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    # ------------------------------------------------------------------- jobs

    async def submit(
        self,
        new: NewJob,
        *,
        capacity: Capacity,
        at: datetime,
        refuse: FlashpodsError | None = None,
    ) -> tuple[Job, bool]:
        """Admit a job, or find the one with the same key; durable when it returns."""
        return await self._writer.run(
            lambda c: jobs.submit(c, new, capacity, at, refuse), durable=True
        )

    async def get(self, job_id: str) -> Job | None:
        """Return the row."""
        return self._reader.inline(lambda c: jobs.get(c, job_id))

    async def events(self, job_id: str) -> list[JobEvent]:
        """Return the job's history, oldest first; at most seven rows."""
        return self._reader.inline(lambda c: jobs.events(c, job_id))

    async def history(self, job_id: str) -> tuple[Job, list[JobEvent]] | None:
        """Return the row and its events, as they were at one moment."""
        return self._reader.inline(lambda c: jobs.history(c, job_id))

    async def page(
        self, *, statuses: Sequence[JobStatus] | None, limit: int, cursor: int | None
    ) -> JobPage:
        """Return a page, newest first; ``total`` counts all that match, whatever the page."""
        return await self._reader.adaptive(lambda c: jobs.page(c, statuses, limit, cursor))

    async def active(self) -> list[Job]:
        """Return the jobs that hold resources, oldest first."""
        return await self._reader.threaded(jobs.active)

    async def reserved(self) -> Reserved:
        """Return what active jobs hold."""
        return self._reader.inline(jobs.reserved)

    async def advance(
        self,
        job_id: str,
        expected: JobStatus,
        trigger: Trigger,
        step: Step,
    ) -> Job:
        """Move a job along one edge and write its event, in one transaction."""
        target = next_status(expected, trigger)
        return await self._writer.run(
            lambda c: jobs.advance(c, job_id, expected, trigger, step),
            durable=target in ENDED or target is JobStatus.CLEANED,
        )

    async def note(self, job_id: str, note: Note) -> Job:
        """Set the phase, append warnings that are not there yet, date a deletion."""
        return await self._writer.run(lambda c: jobs.note(c, job_id, note))

    async def request_cancel(self, job_id: str, *, at: datetime) -> Job:
        """Record the request durably; a repeated call keeps the first time."""
        return await self._writer.run(lambda c: jobs.request_cancel(c, job_id, at), durable=True)

    async def artifacts(self, job_id: str) -> list[Artifact]:
        """Return the artifact rows, by name; at most a few hundred."""
        sql = f"SELECT {rows.ARTIFACT} FROM artifacts WHERE job_id = ? ORDER BY name"
        return await self._reader.threaded(
            lambda c: [rows.artifact(row) for row in c.execute(sql, (job_id,))]
        )

    async def known(self, job_ids: Sequence[str]) -> dict[str, Job]:
        """Return the rows of those ids that exist."""
        return await self._reader.threaded(lambda c: jobs.known(c, job_ids))

    async def fates(self, job_ids: Sequence[str]) -> dict[str, JobFate]:
        """Return the same of any number of ids, but only what the cleanup asks."""
        found: dict[str, JobFate] = {}
        for start in range(0, len(job_ids), FATES_AT_ONCE):  # each within its own deadline
            chunk = job_ids[start : start + FATES_AT_ONCE]
            found |= await self._reader.threaded(partial(jobs.fates, job_ids=chunk))
        return found

    async def ended(
        self, *, before: datetime, limit: int, kept: Literal["log", "artifacts"] | None = None
    ) -> list[Job]:
        """Return ended or cleaning jobs with ``completed_at < before``, oldest first."""
        return await self._reader.threaded(lambda c: jobs.ended(c, before, limit, kept))

    async def draining(self) -> bool:
        """Return whether new jobs are refused."""
        return self._reader.inline(jobs.is_draining)

    async def set_draining(self, draining: bool, *, at: datetime) -> None:
        """Refuse new jobs from now on, or accept them again; durable."""
        await self._writer.run(lambda c: jobs.set_draining(c, draining, at), durable=True)

    async def tally(self) -> Tally:
        """Return what the records add up to, of one moment."""
        return await self._reader.threaded(totals.tally)

    async def artifact_bytes(self) -> int:
        """Return the size of the artifacts that are not deleted."""
        return await self._reader.threaded(totals.artifact_bytes)

    async def ping(self) -> None:
        """Prove that the database answers a read, and a write if the last one failed on the disk.

        Raises:
            Unavailable, InsufficientStorage: it does not.
        """
        if self._writer.doubtful:
            await self._writer.run(lambda _: None, durable=True)  # it settles the doubt first
        await self._reader.threaded(lambda c: c.execute("SELECT n FROM job_counts").fetchone())

    # ------------------------------------------------------------------- uploads

    async def reserve(
        self, upload_id: str, *, project: str | None, at: datetime, expires_at: datetime
    ) -> Upload:
        """Insert ``uploading``; durable."""
        return await self._writer.run(
            lambda c: uploads.reserve(c, upload_id, project, at, expires_at), durable=True
        )

    async def adopt(self, upload_id: str, *, at: datetime, expires_at: datetime) -> Upload:
        """Return the row, inserting ``uploading`` dated ``at`` if there is none."""
        return await self._writer.run(lambda c: uploads.adopt(c, upload_id, at, expires_at))

    async def get_upload(self, upload_id: str) -> Upload | None:
        """Return the row."""
        return self._reader.inline(lambda c: uploads.get(c, upload_id))

    async def uploads(self, *states: str) -> list[Upload]:
        """Return the uploads in those states, oldest first."""
        return await self._reader.threaded(lambda c: uploads.in_states(c, states))

    async def begin_finalize(self, upload_id: str, *, at: datetime) -> Upload:
        """Close the upload to new transfers, in one transaction with its checks.

        A client finalizes the moment its rsync ends, which is some 40 ms before the daemon's
        process is gone, so a live transfer gets :data:`TRANSFER_ENDS_SECONDS` to end.
        """
        tries = int(TRANSFER_ENDS_SECONDS / TRANSFER_LOOK_SECONDS)
        for left in range(tries, -1, -1):
            try:
                return await self._writer.run(lambda c: uploads.begin_finalize(c, upload_id, at))
            except Conflict as e:
                if e.code != "upload_in_progress" or not left:
                    raise
            await asyncio.sleep(TRANSFER_LOOK_SECONDS)
        raise AssertionError("the last try returns or raises")

    async def abort_finalize(self, upload_id: str) -> None:
        """Open it again after a refusal; a no-op unless it is uploading."""
        await self._writer.run(lambda c: uploads.abort_finalize(c, upload_id))

    async def complete_finalize(self, upload_id: str, tree: FinalTree) -> Upload:
        """Make it ``finalized``; durable; a repeated call returns the row."""
        return await self._writer.run(
            lambda c: uploads.complete_finalize(c, upload_id, tree), durable=True
        )

    async def expire(self, upload_id: str, *, at: datetime) -> Upload | None:
        """Make an ``uploading`` or ``finalized`` upload ``expired``; durable."""
        return await self._writer.run(lambda c: uploads.expire(c, upload_id, at), durable=True)

    async def drop_expired(self, *, before: datetime) -> int:
        """Delete rows expired or consumed before that time; return how many."""
        return await self._writer.run(lambda c: uploads.drop_expired(c, before))


def _refuse_half_restored(path: Path) -> None:
    """Refuse what a restore left half done: the database there may lack its write-ahead log.

    Raises:
        SchemaError: names the command that ends it.
    """
    if swap.interrupted(path):
        raise SchemaError(
            f"a restore of database {path} was interrupted; run it again: "
            f"flashpods-admin restore FILE"
        )


def _refuse_damage(path: Path) -> None:
    """Refuse a garbled database: going on would lose more than restoring does.

    Raises:
        SchemaError: names the damage and the command that restores a backup.
    """
    try:
        found = damage.find(path)
    except (OSError, sqlite3.Error) as e:
        raise SchemaError(f"database {path} can't be read: {e}") from e
    if found:
        raise SchemaError(
            f"database {path} is damaged ({found}); restore a backup: flashpods-admin restore FILE"
        )
