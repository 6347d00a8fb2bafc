"""One task per active job, which walks it down its line."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from flashpods import failpoints
from flashpods.errors import StaleState, Unavailable
from flashpods.jobs.collect import conclude
from flashpods.jobs.launch import FIRST_BACKOFF, MOST_BACKOFF, Slots, launch, unless
from flashpods.jobs.line import CancelRequested, JobFailed, Line
from flashpods.jobs.model import Job, Outcome
from flashpods.jobs.monitor import Ending, judge, monitor
from flashpods.jobs.states import JobStatus, Trigger
from flashpods.ports import ContainerState

log = structlog.get_logger(__name__)

# A stopped engine does what was asked of it when it goes on, although nobody waits any more.
LATE_SECONDS: Final = 60.0
# A stop lets containers that are being made come to run: of a job in "starting" without one nobody
# could say later whether its command has begun, so it would fail (contract section 2).
SETTLE_SECONDS: Final = 5.0


class Supervisor:
    """Runs the lines of all active jobs in this process."""

    def __init__(self, line: Line) -> None:
        """Build it; nothing runs before :meth:`begin`."""
        self._line = line
        self.broke = asyncio.Event()  # something is left to recovery: it should not wait a minute
        self.late_until = 0.0  # loop time; until then an abandoned create may yet be done
        self._slots = Slots(line.policy.launch_slots)
        self._launching = asyncio.Event()  # cleared by hold()
        self._launching.set()
        self._closing = False
        self._settled_by: float | None = None  # loop time
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._cancels: dict[str, asyncio.Event] = {}

    def has(self, job_id: str) -> bool:
        """Return whether a task walks the job."""
        return job_id in self._tasks

    def begin(self, job: Job, found: ContainerState | None = None) -> None:
        """Put an active job on its line; repeated: nothing.

        Args:
            job: the row.
            found: its container, when recovery saw one.
        """
        if job.id in self._tasks:
            return
        cancel = self._cancels[job.id] = asyncio.Event()
        if job.cancel_requested_at is not None:
            cancel.set()
        task = asyncio.create_task(self._walk(job, found, cancel), name=f"job {job.id}")
        self._tasks[job.id] = task
        task.add_done_callback(lambda t: self._left(job.id, t))

    async def cancel(self, job_id: str) -> Job:
        """Record a cancellation durably and wake the job's task.

        Raises:
            NotFound: ``job_not_found``.
            Conflict: ``job_already_terminal``.
        """
        failpoints.hit("cancel.before_commit")
        job = await self._line.store.request_cancel(job_id, at=self._line.clock.now())
        failpoints.hit("cancel.after_commit")
        self._line.changes.publish(job_id)
        if event := self._cancels.get(job_id):
            event.set()
        return job

    @property
    def held(self) -> bool:
        """Whether launches wait for :meth:`release`."""
        return not self._launching.is_set()

    def hold(self) -> None:
        """Launch nothing until :meth:`release`: a create of the process before may be under way.

        Of two creates at once the engine may die (docs/decisions/0010).
        """
        self._launching.clear()

    def release(self) -> None:
        """Let launches go on."""
        self._launching.set()

    def heed(self, job: Job) -> None:
        """Obey a cancellation that another process has recorded, such as a drain's."""
        if job.cancel_requested_at is not None and (event := self._cancels.get(job.id)):
            event.set()

    def expect_late(self) -> None:
        """Have recovery look often for a while: the engine may do what nobody waits for."""
        self.late_until = asyncio.get_running_loop().time() + LATE_SECONDS

    async def idle(self) -> None:
        """Return when no job is on its line (for tests and for draining)."""
        while self._tasks:
            await asyncio.wait(set(self._tasks.values()))

    def wind_down(self) -> None:
        """Begin no other launch: :meth:`close` is near, and waits for those under way till then."""
        self._settled_by = asyncio.get_running_loop().time() + SETTLE_SECONDS
        self._slots.close()

    async def close(self) -> None:
        """Leave all jobs where they are; the next process finds them."""
        if self._settled_by is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._settled_by):
                    await self._slots.idle()
        self._closing = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _left(self, job_id: str, task: asyncio.Task[None]) -> None:
        self._tasks.pop(job_id, None)
        self._cancels.pop(job_id, None)
        if self._closing:
            return
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is not None:
            # Nothing is lost: the row is still active, and the next recovery begins it again.
            log.error("job_line_broke", job_id=job_id, exc_info=error)
            self.broke.set()

    async def _walk(self, job: Job, found: ContainerState | None, cancel: asyncio.Event) -> None:
        try:
            ending = await self._run(job, found, cancel)
        except CancelRequested:
            ending = Ending(trigger=Trigger.CANCEL, outcome=Outcome(), why="cancelled before start")
        except JobFailed as failed:
            ending = Ending(
                trigger=Trigger.FAIL, outcome=Outcome(error=failed.code), why=failed.why
            )
        row = await self._line.store.get(job.id)
        if row is None or row.terminal:
            return
        if row.status is JobStatus.STARTING:  # of a pending one no container was asked for
            failpoints.hit("early.before_remove")
            await self._remove_for_good(row)
            failpoints.hit("early.after_remove")
        try:
            if not await conclude(self._line, row, ending):
                self.broke.set()
            if row.status is JobStatus.STARTING:
                self.broke.set()
                self.expect_late()
        except StaleState:
            log.warning("job_ended_elsewhere", job_id=job.id)
            self.broke.set()  # if it has not ended after all, nobody walks it now

    async def _run(self, job: Job, found: ContainerState | None, cancel: asyncio.Event) -> Ending:
        """Return how the job ended, wherever on the line it is met.

        A container that once ran and is neither running nor exited lost its process to a reboot:
        it is as good as gone, and must not run its command a second time.
        """
        line = self._line
        ran = found is not None and (found.running or found.exited)
        lost = found is None or (found.started_at is not None and not ran)
        if job.status is JobStatus.RUNNING and not ran:
            return judge(job, None)
        if job.status is JobStatus.STARTING and lost:
            raise JobFailed("container_not_found_on_recovery", "no container after a restart")
        if job.status is JobStatus.STARTING and found is not None and ran:
            # The container got further than its row: let the row follow.
            why = f"found container {found.id[:12]} {found.status}"
            job = await line.advance(
                job, Trigger.STARTED, why, container_id=found.id, at=found.started_at
            )
        elif job.status is not JobStatus.RUNNING:
            await unless(cancel, self._launching.wait())
            job = await launch(line, job, cancel, self._slots)
        assert job.container_id is not None
        following = asyncio.create_task(self._follow(job))
        try:
            watched = found is None or not found.exited
            return await monitor(line, job, job.container_id, cancel, watched=watched)
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    async def _follow(self, job: Job) -> None:
        """Have the log followed; a disk that refuses keeps nobody from the job's end."""
        await self._again(job, self._line.logs.follow, job.id, OSError, "log_not_followed")

    async def _remove_for_good(self, job: Job) -> None:
        """Remove what may run under a job that ends early, however long the engine is away.

        The job's resources must not be given to others before that.
        """
        remove, name = self._line.runtime.remove, job.container_name
        await self._again(job, remove, name, Unavailable, "removal_waits_for_engine")

    async def _again(
        self,
        job: Job,
        act: Callable[[str], Awaitable[None]],
        name: str,
        refusal: type[Exception],
        event: str,
    ) -> None:
        """Act on a name until it is not refused, with growing pauses; each refusal is logged."""
        backoff = FIRST_BACKOFF
        while True:
            try:
                await act(name)
            except refusal as e:
                log.warning(event, job_id=job.id, reason=str(e))
            else:
                return
            await self._line.clock.sleep(backoff)
            backoff = min(backoff * 2, MOST_BACKOFF)
