"""One task per active job, which walks it down its line; recovery puts a job back on it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import Final

import structlog

from flashpods import failpoints
from flashpods.errors import FlashpodsError, StaleState, Unavailable
from flashpods.jobs.collect import conclude, discard_ended_upload
from flashpods.jobs.launch import FIRST_BACKOFF, MOST_BACKOFF, launch, unless
from flashpods.jobs.line import CancelRequested, JobFailed, Line
from flashpods.jobs.model import Job, Outcome, job_of
from flashpods.jobs.monitor import Ending, judge, monitor
from flashpods.jobs.states import JobStatus, Trigger
from flashpods.ports import ContainerState

log = structlog.get_logger(__name__)

# A stopped engine does what was asked of it when it goes on, although nobody waits any more.
LATE_SECONDS: Final = 60.0
LATE_LOOK: Final = 2.0


class Supervisor:
    """Runs the lines of all active jobs in this process."""

    def __init__(self, line: Line) -> None:
        """Build it; nothing runs before :meth:`begin`."""
        self._line = line
        self.broke = asyncio.Event()  # something is left to recovery: it should not wait a minute
        self.late_until = 0.0  # loop time; until then an abandoned create may yet be done
        self._slots = asyncio.Semaphore(line.policy.launch_slots)
        self._launching = asyncio.Event()  # cleared by hold()
        self._launching.set()
        self._closing = False
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

    async def close(self) -> None:
        """Leave all jobs where they are; the next process finds them."""
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
        backoff = FIRST_BACKOFF
        while True:
            try:
                await self._line.logs.follow(job.id)
            except OSError as e:
                log.warning("log_not_followed", job_id=job.id, reason=str(e))
            else:
                return
            await self._line.clock.sleep(backoff)
            backoff = min(backoff * 2, MOST_BACKOFF)

    async def _remove_for_good(self, job: Job) -> None:
        """Remove what may run under a job that ends early, however long the engine is away.

        The job's resources must not be given to others before that.
        """
        backoff = FIRST_BACKOFF
        while True:
            try:
                await self._line.runtime.remove(job.container_name)
            except Unavailable as e:
                log.warning("removal_waits_for_engine", job_id=job.id, reason=e.message)
            else:
                return
            await self._line.clock.sleep(backoff)
            backoff = min(backoff * 2, MOST_BACKOFF)


class Recovery:
    """Compares rows with containers, at start and every minute; contract section 2's table."""

    def __init__(self, line: Line, supervisor: Supervisor) -> None:
        """Build it."""
        self._line = line
        self._supervisor = supervisor

    async def run_once(self) -> None:
        """Put every active job back on its line and remove containers that no row explains.

        Raises:
            Unavailable: the engine or the store did not answer, or not to all questions; what it
                did not answer is not decided.
        """
        line = self._line
        # Containers first: one that appears after this look belongs to a row that has a task.
        containers = await line.runtime.containers()
        remnants = await line.runtime.remnants()
        active = {job.id: job for job in await line.store.active()}
        unseen = await self._resume(active.values())
        known = await line.store.known(sorted({c.job_id for c in containers}))
        for container in containers:
            row = known.get(container.job_id)
            if row is None or container.name != row.container_name or not self._walks(row):
                await self._remove_orphan(container.id, container.name)
        whole = {container.name for container in containers}
        for name in remnants:
            job_id = job_of(name)
            if job_id is None or name in whole or job_id in active or self._supervisor.has(job_id):
                continue
            await self._remove_orphan(name, name)
        await self._discard_trees()
        if unseen is not None:
            raise unseen

    async def _resume(self, jobs: Iterable[Job]) -> Unavailable | None:
        """Put the jobs that nobody walks back on their lines.

        Returns:
            Why one of them could not be looked at, if so: that keeps no other from going on.
        """
        left = []
        for job in jobs:
            self._supervisor.heed(job)
            if not self._supervisor.has(job.id):
                left.append(job)
        looks = [self._container_of(job) for job in left]
        unseen: Unavailable | None = None
        for job, found in zip(
            left, await asyncio.gather(*looks, return_exceptions=True), strict=True
        ):
            if isinstance(found, Unavailable):
                log.warning("job_not_resumed", job_id=job.id, reason=found.message)
                unseen = found
                continue
            if isinstance(found, BaseException):
                raise found
            row = await self._line.store.get(job.id)
            if row is None or row.status is not job.status or self._supervisor.has(job.id):
                continue  # it was accepted a moment ago, and has gone on since we looked
            self._supervisor.begin(row, found)
            self._line.observer.recovered("restarted" if found is None else "resumed")
        self._supervisor.release()
        return unseen

    def _walks(self, row: Job) -> bool:
        return row.active or self._supervisor.has(row.id)

    async def _remove_orphan(self, name_or_id: str, name: str) -> None:
        log.warning("orphan_container", name=name)
        try:
            await self._line.runtime.remove(name_or_id)
        except Unavailable as e:  # one that does not go keeps no other from going
            log.warning("orphan_stays", name=name, reason=e.message)
            self._line.observer.recovered("orphan_stayed")
            self._supervisor.broke.set()
        else:
            self._line.observer.recovered("orphan_removed")

    async def _discard_trees(self) -> None:
        """Delete the files of jobs that ended just before a crash; their containers are gone.

        What a job left that ran may be millions of files: that is the cleanup's.
        """
        line = self._line
        claimed, staged = await line.workspaces.claimed(), await line.artifacts.staged()
        known = await line.store.known(sorted({*claimed, *staged}))
        for job_id in claimed:
            row = known.get(job_id)
            if not self._supervisor.has(job_id) and (row is None or row.terminal):
                await _leave(line.workspaces.discard(job_id), job_id)
                line.observer.recovered("tree_discarded")
        for job_id in staged:
            row = known.get(job_id)
            if row and row.terminal and not row.started_at and not self._supervisor.has(job_id):
                await _leave(line.artifacts.discard_staged(job_id), job_id)
        for upload_id in await line.workspaces.finalized():
            await _leave(discard_ended_upload(line, upload_id), upload_id)

    async def _container_of(self, job: Job) -> ContainerState | None:
        """Look anew: the list may be older than the row."""
        if job.status is JobStatus.PENDING:
            return None  # no container is made before ``starting`` is committed
        if job.status is JobStatus.STARTING:  # the process before may have asked for it just now
            return await self._line.runtime.awaited(job.container_name)
        return await self._line.runtime.inspect(job.container_name)

    async def run(self) -> None:
        """Recover now and every ``recovery_every`` seconds.

        Sooner while the engine is away, and when a job's line broke or left something behind.
        """
        self._supervisor.hold()
        backoff = FIRST_BACKOFF
        away = True  # what the process before asked for, and nobody waits for, may yet be done
        while True:
            self._supervisor.broke.clear()
            try:
                await self.run_once()
            except (FlashpodsError, OSError) as e:
                log.warning("recovery_deferred", reason=str(e))
                self._line.observer.recovered("deferred")
                away = True
            except Exception:
                log.exception("recovery_failed")
                self._line.observer.recovered("deferred")
            else:
                if away:
                    self._supervisor.expect_late()
                    away = False
                if await self._quiet():
                    backoff = FIRST_BACKOFF
                    continue
            await self._line.clock.sleep(backoff)
            backoff = min(backoff * 2, MOST_BACKOFF)

    async def _quiet(self) -> bool:
        """Wait until it is time again; False at once when a job's line breaks."""
        every = self._line.policy.recovery_every
        if asyncio.get_running_loop().time() < self._supervisor.late_until:
            every = min(every, LATE_LOOK)
        time_again = asyncio.create_task(self._line.clock.sleep(every))
        broke = asyncio.create_task(self._supervisor.broke.wait())
        try:
            await asyncio.wait({time_again, broke}, return_when=asyncio.FIRST_COMPLETED)
            return not broke.done()
        finally:
            time_again.cancel()
            broke.cancel()
            await asyncio.gather(time_again, broke, return_exceptions=True)


async def _leave(deletion: Awaitable[None], name: str) -> None:
    """Await a deletion; what can't be deleted is left to the cleanup, and keeps no other."""
    try:
        await deletion
    except (FlashpodsError, OSError) as e:
        log.warning("leftover_stays", name=name, reason=str(e))
