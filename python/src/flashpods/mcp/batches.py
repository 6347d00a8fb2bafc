"""Batches: many jobs on one push, queued here while the host has no room for them.

A batch is a task of this process. The jobs it has started are the host's and go on without it; what
is still queued when the process ends was never started.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from flashpods.client.errors import ClientError
from flashpods.client.models import Job
from flashpods.mcp.host import Host
from flashpods.mcp.matrix import Variant
from flashpods.mcp.schemas import ManyJob, ManyResult, ManyStatus
from flashpods.mcp.trees import Trees
from flashpods.mcp.waiting import passing, tail_of

if TYPE_CHECKING:
    from flashpods.client import FlashpodsClient  # loads httpx

__all__ = ["Batch", "Batches", "Plan"]

log = logging.getLogger(__name__)

MOST_BATCHES: Final = 20
LOOK_SECONDS: Final = 1.0  # between two looks at the jobs that run
ROOM_SECONDS: Final = 3.0  # between two tries to start a job that had no room
_FAILED: Final = frozenset({"failed", "timed_out", "cancelled", "lost"})
_OVER: Final = _FAILED | {"completed", "cleaning", "cleaned", "not_started"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a batch is to do."""

    variants: list[Variant]
    fields: dict[str, Any]  # of every job: cpus, memory_gb, timeout_minutes
    until: Literal["all", "first_failure"]
    kill_rest: bool
    queue_seconds: float


@dataclass(slots=True)
class _Entry:
    number: int
    variant: Variant
    status: ManyStatus = "queued"
    key: str = field(default_factory=lambda: str(uuid.uuid4()))
    job_id: str | None = None
    job: Job | None = None
    error: str | None = None
    tail: str | None = None

    @property
    def over(self) -> bool:
        return self.status in _OVER

    @property
    def failed(self) -> bool:
        return self.status in _FAILED or (self.status == "not_started" and self.error is not None)

    def end(self, status: ManyStatus, error: str | None = None) -> None:
        self.status, self.error = status, error

    def view(self) -> ManyJob:
        return ManyJob(
            number=self.number,
            label=self.variant.label,
            status=self.status,
            job_id=self.job_id,
            exit_code=self.job.exit_code if self.job else None,
            error=self.error,
            seconds=self.job.duration_seconds if self.job else None,
            output_tail=self.tail,
        )


class Batch:
    """One ``spawn_many``: starts its jobs as there is room, and watches them."""

    def __init__(self, client: FlashpodsClient, plan: Plan, trees: Trees) -> None:
        """Begin at once."""
        self.id = f"batch_{secrets.token_hex(6)}"
        self._client = client
        self._plan = plan
        self._trees = trees
        self._entries = [_Entry(n, v) for n, v in enumerate(plan.variants, 1)]
        self._failure: ClientError | None = None
        self._stopped_by: int | None = None
        self._stopping = asyncio.Event()
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    # --- what callers see

    @property
    def finished(self) -> bool:
        """Whether nothing of it will change any more."""
        return self._task.done()

    async def wait(self, seconds: float, tell: Callable[[str], Any]) -> None:
        """Return when it is finished, or after ``seconds``; cancelling changes nothing of it."""
        clock = asyncio.get_running_loop().time
        end = clock() + seconds
        while not self.finished and clock() < end:
            self._news.clear()
            news = asyncio.ensure_future(self._news.wait())
            try:
                await asyncio.wait(
                    {news, self._task},
                    timeout=min(5.0, end - clock()),
                    return_when=asyncio.FIRST_COMPLETED,
                )
            finally:
                news.cancel()
            await tell(self.line())

    def counts(self) -> dict[str, int]:
        """Return how many jobs are in each status."""
        return dict(Counter(entry.status for entry in self._entries))

    def line(self) -> str:
        """Say in a line how it stands."""
        return ", ".join(f"{count} {status}" for status, count in self.counts().items())

    def result(self) -> ManyResult:
        """Show it.

        Raises:
            ClientError: the push failed, so that no job could be started.
        """
        if self._failure is not None and all(e.job_id is None for e in self._entries):
            raise self._failure
        return ManyResult(
            batch_id=self.id,
            finished=self.finished,
            stopped_by=self._stopped_by,
            counts=self.counts(),
            jobs=[entry.view() for entry in self._entries],
            sent_bytes=self._trees.sent_bytes,
            next=self._next(),
        )

    def _next(self) -> str:
        if not self.finished:
            return f"not finished: call wait_for_many with {self.id}, or do other work meanwhile"
        if self._failure is not None:
            return f"{self._failure}; jobs that were started go on: get_job_status shows each"
        if self._running():
            return "some still run: kill_job ends one that is not needed"
        if any(entry.failed for entry in self._entries):
            return "search_output with the job_id of one that failed shows where it went wrong"
        return "all completed; get_job_artifacts lists what each left"

    async def stop(self) -> None:
        """Start no more jobs and end the task; jobs that run go on."""
        self._stopping.set()
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    # --- what it does

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                starting = group.create_task(self._start_all())
                group.create_task(self._watch(starting))
        except* ClientError as errors:
            self._failure = next(iter(leaves(errors)), None)
        except* Exception as errors:
            log.exception("batch %s failed", self.id)
            what = type(errors.exceptions[0]).__name__
            self._failure = ClientError("internal_error", f"flashpods-mcp itself failed ({what})")
        finally:
            for entry in self._entries:
                if entry.status == "queued":
                    entry.end("not_started", entry.error)
            await self._trees.aclose()

    async def _start_all(self) -> None:
        clock = asyncio.get_running_loop().time
        end = clock() + self._plan.queue_seconds
        for place, entry in enumerate(self._entries):
            if self._stopping.is_set():
                return
            try:
                await self._start(entry, last=place == len(self._entries) - 1, end=end)
            except ClientError as error:
                entry.end("not_started", f"{error.code}: {error.message}")
                if not self._trees.usable:
                    self._failure = error
                    return
                self._judge(entry)
                if passing(error):  # the time for queueing is over, for those behind it too
                    for rest in self._entries[place + 1 :]:
                        rest.end("not_started", entry.error)
                    return
            self._news.set()

    async def _start(self, entry: _Entry, *, last: bool, end: float) -> None:
        """Start a job, waiting for room until ``end``. Raises ClientError."""
        clock = asyncio.get_running_loop().time
        while not self._stopping.is_set():
            try:
                upload_id = await self._trees.take(last=last)
                job = await self._client.create_job(
                    type="worker",
                    command=entry.variant.command,
                    image=entry.variant.image,
                    files_id=upload_id,
                    client_job_id=entry.key,
                    **self._plan.fields,
                )
            except ClientError as error:
                if error.code in {"upload_not_found", "upload_expired"} and self._trees.forget():
                    # It waited too long for room. No job has it, so the key is free as well.
                    entry.key = str(uuid.uuid4())
                elif not passing(error) or clock() >= end:
                    raise
                else:
                    entry.error = error.code  # why it is still queued
                    self._news.set()
                    await self._pause(ROOM_SECONDS)
                continue
            self._trees.used()
            entry.job_id, entry.error, entry.status = job.job_id, None, "pending"
            if self._stopping.is_set() and self._plan.kill_rest:
                await self._kill_rest()
            return

    async def _pause(self, seconds: float) -> None:
        """Wait, unless it is to stop."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    async def _watch(self, starting: asyncio.Task[None]) -> None:
        """Look at the jobs until all have ended, or nobody cares for those that run."""
        while True:
            if running := self._running():
                try:
                    await self._look(running)
                except ClientError as error:
                    if not passing(error):
                        raise
            left_alone = self._stopping.is_set() and not self._plan.kill_rest
            if starting.done() and (left_alone or not self._running()):
                return
            await asyncio.sleep(LOOK_SECONDS)

    def _running(self) -> list[_Entry]:
        return [e for e in self._entries if e.job_id is not None and not e.over]

    async def _look(self, running: list[_Entry]) -> None:
        """Ask once for all active jobs, and once more for each that is not among them."""
        active: dict[str, Job] = {}
        cursor: str | None = None
        while True:
            page = await self._client.jobs("active", 100, cursor)
            active.update({job.id: job for job in page.jobs})
            cursor = page.next_cursor
            if cursor is None or len(active) >= 1000:
                break
        for entry in running:
            assert entry.job_id is not None
            job = active.get(entry.job_id)
            if job is None:
                job = await self._gone(entry)
            if job is not None and job.status != entry.status:
                self._take(entry, job)
                if entry.over:
                    await self._ended(entry)

    async def _gone(self, entry: _Entry) -> Job | None:
        assert entry.job_id is not None
        try:
            return await self._client.get_job(entry.job_id)
        except ClientError as error:
            if error.code != "job_not_found":
                raise
            entry.end("lost", "the host does not know the job any more")
            await self._ended(entry)
            return None

    def _take(self, entry: _Entry, job: Job) -> None:
        entry.job = job
        entry.status = job.status  # type: ignore[assignment] # the host's states are among ours
        entry.error = job.error
        self._news.set()

    async def _ended(self, entry: _Entry) -> None:
        if entry.failed and entry.job_id and not any(e.tail for e in self._entries):
            entry.tail = await tail_of(self._client, entry.job_id)
        self._judge(entry)
        if self._stopping.is_set() and self._plan.kill_rest:
            await self._kill_rest()
        self._news.set()

    def _judge(self, entry: _Entry) -> None:
        if self._plan.until == "first_failure" and entry.failed and self._stopped_by is None:
            self._stopped_by = entry.number
            self._stopping.set()

    async def _kill_rest(self) -> None:
        for entry in self._running():
            assert entry.job_id is not None
            with suppress(ClientError):
                await self._client.cancel(entry.job_id)


def leaves(group: BaseExceptionGroup[ClientError]) -> list[ClientError]:
    """Return the errors of a group, however deep they are."""
    found: list[ClientError] = []
    for error in group.exceptions:
        found += leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


class Batches:
    """The batches of this process; finished ones are kept until their place is needed."""

    def __init__(self, host: Host) -> None:
        """Have none."""
        self._host = host
        self._batches: dict[str, Batch] = {}

    async def begin(self, plan: Plan, trees: Trees) -> Batch:
        """Begin one.

        Raises:
            ClientError: ``too_many_batches``.
        """
        if len(self._batches) >= MOST_BATCHES:
            done = next((key for key, b in self._batches.items() if b.finished), None)
            if done is None:
                raise ClientError(
                    "too_many_batches",
                    f"{MOST_BATCHES} batches are at work; wait_for_many for one of them first",
                )
            del self._batches[done]
        batch = Batch(await self._host.client(), plan, trees)
        self._batches[batch.id] = batch
        return batch

    def get(self, batch_id: str) -> Batch:
        """Return the batch.

        Raises:
            ClientError: ``batch_not_found``.
        """
        batch = self._batches.get(batch_id)
        if batch is None:
            raise ClientError(
                "batch_not_found",
                f"there is no batch {batch_id[:80]!r}; batches end with the server, their jobs go "
                "on: list_jobs finds them",
            )
        return batch

    async def aclose(self) -> None:
        """Stop them; jobs go on."""
        await asyncio.gather(*(batch.stop() for batch in self._batches.values()))
        self._batches.clear()
