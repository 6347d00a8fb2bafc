"""Compares rows with containers, and puts jobs back on their lines."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog

from flashpods.errors import FlashpodsError, Unavailable
from flashpods.jobs.collect import discard_ended_upload
from flashpods.jobs.launch import FIRST_BACKOFF, MOST_BACKOFF
from flashpods.jobs.line import Line
from flashpods.jobs.model import Job, job_of
from flashpods.jobs.monitor import deadline
from flashpods.jobs.states import JobStatus
from flashpods.jobs.supervisor import LATE_SECONDS, Supervisor
from flashpods.ports import ContainerState

log = structlog.get_logger(__name__)

LATE_LOOK: Final = 2.0  # seconds between looks while the engine may do what nobody waits for
LOOKS_AT_ONCE: Final = 16  # as many as the engine is asked at once anyway
# From the engine's first answer on: by then it has done what it was asked before, or never will.
HOLD_SECONDS: Final = LATE_SECONDS
DEAD_SECONDS: Final = 20.0  # a round's for dead containers, each of which may take 60, and for logs
LOG_SOON: Final = timedelta(minutes=1)  # after its job's end a log is tried without a pause
LOG_COMPLETE: Final = "the log is complete now"
UNSEEN_SECONDS: Final = 60.0  # then a job is ended, if it is to end, whatever its container does


@dataclass(frozen=True, slots=True)
class _Orphan:
    """A container, or what is left of one, that no row explains."""

    ref: str  # what to remove it by
    name: str
    dead: bool  # it holds no CPU and no memory


class Recovery:
    """Compares rows with containers, at start and every minute; contract section 2's table."""

    def __init__(self, line: Line, supervisor: Supervisor) -> None:
        """Build it."""
        self._line = line
        self._supervisor = supervisor
        self._bound: asyncio.TimerHandle | None = None  # of the hold on launches, once it counts
        self._unseen: dict[str, float] = {}  # job id → when its container was first not to be seen

    async def run_once(self, *, strangers: bool = True) -> None:
        """Put every active job back on its line and remove containers that no row explains.

        Args:
            strangers: also those of jobs that have no row at all. They are a database that was
                lost, or the containers of ``flashpods-admin validate``, which a look every two
                seconds would never let live; what an engine does late is of jobs that have one.

        Raises:
            Unavailable: the engine or the store did not answer, or not to all questions; what it
                did not answer is not decided. Whatever else a look at one container raised.
        """
        line = self._line
        # Containers first: one that appears after this look belongs to a row that has a task.
        containers = await line.runtime.containers()
        remnants = await line.runtime.remnants()
        self._bound_hold()
        unseen = await self._resume(await line.store.active())
        orphans = await self._orphans(containers, remnants, strangers=strangers)
        staying = [o.name for o in orphans if not o.dead and not await self._remove_orphan(o)]
        # A running job's create is over, and its row reserves what it takes, seen or not.
        half_made = [j.container_name for j, _ in unseen if j.status is JobStatus.STARTING]
        self._let_launch([*half_made, *staying])
        await self._remove_dead([orphan for orphan in orphans if orphan.dead])
        await self._discard_trees()
        await self._complete_logs(old=strangers)
        for _, error in unseen:
            raise error

    async def _orphans(
        self, containers: Sequence[ContainerState], remnants: Sequence[str], *, strangers: bool
    ) -> list[_Orphan]:
        whole = {container.name for container in containers}
        left = {name: job_id for name in remnants if (job_id := job_of(name)) and name not in whole}
        known = await self._line.store.known(
            sorted({*left.values(), *(container.job_id for container in containers)})
        )
        orphans = []
        for container in containers:
            row = known.get(container.job_id)
            ours = row is not None and container.name == row.container_name and self._walks(row)
            if not ours and (row is not None or strangers):
                orphans.append(_Orphan(container.id, container.name, container.exited))
        for name, job_id in left.items():
            row = known.get(job_id)
            ours = self._supervisor.has(job_id) if row is None else self._walks(row)
            if not ours and (row is not None or strangers):
                orphans.append(_Orphan(name, name, dead=False))
        return orphans

    async def _resume(self, jobs: Iterable[Job]) -> list[tuple[Job, Exception]]:
        """Put the jobs that nobody walks back on their lines.

        Returns:
            Those whose container could not be looked at, and why; that keeps no other from going
            on.
        """
        left = []
        for job in jobs:
            self._supervisor.heed(job)
            if not self._supervisor.has(job.id):
                left.append(job)
        unseen: list[tuple[Job, Exception]] = []
        for at in range(0, len(left), LOOKS_AT_ONCE):
            some = left[at : at + LOOKS_AT_ONCE]
            looks = [self._container_of(job) for job in some]
            found = await asyncio.gather(*looks, return_exceptions=True)
            for job, state in zip(some, found, strict=True):
                if isinstance(state, Exception):
                    log.warning("job_not_resumed", job_id=job.id, reason=str(state))
                    unseen.append((job, state))
                    await self._end_unseen(job)
                elif isinstance(state, BaseException):
                    raise state
                else:
                    await self._begin(job, state)
        self._unseen = {job.id: self._unseen[job.id] for job, _ in unseen}
        return unseen

    async def _end_unseen(self, job: Job) -> None:
        """Remove the container of a job that is to end, if it was not to be seen for too long.

        The next look finds none, and ends the job; its log and artifacts are not in the container.
        """
        now = self._line.clock.monotonic()
        unseen_for = now - self._unseen.setdefault(job.id, now)
        if unseen_for < UNSEEN_SECONDS or not self._to_end(job, unseen_for):
            return
        log.warning("unseen_container_removed", job_id=job.id, seconds=unseen_for)
        try:
            await self._line.runtime.remove(job.container_name)
        except Unavailable as e:
            log.warning("unseen_container_stays", job_id=job.id, reason=e.message)

    def _to_end(self, job: Job, unseen_for: float) -> bool:
        policy = self._line.policy
        if job.cancel_requested_at is not None:
            return True
        if job.status is JobStatus.STARTING:
            return unseen_for >= policy.starting
        slack = timedelta(seconds=policy.grace + policy.backstop_slack)
        return self._line.clock.now() >= deadline(job) + slack

    async def _begin(self, job: Job, found: ContainerState | None) -> None:
        row = await self._line.store.get(job.id)
        if row is None or row.status is not job.status or self._supervisor.has(job.id):
            return  # it was accepted a moment ago, and has gone on since we looked
        self._supervisor.begin(row, found)
        self._line.observer.recovered("restarted" if found is None else "resumed")

    def _bound_hold(self) -> None:
        """Have launches held for so long at most, now that the engine answers."""
        if self._bound is None and self._supervisor.held:
            loop = asyncio.get_running_loop()
            self._bound = loop.call_later(HOLD_SECONDS, self._launch_all_the_same)

    def _let_launch(self, in_doubt: Sequence[str]) -> None:
        """Let launches go on, unless one of these containers may be in their way.

        That is one whose create may be under way, and one that runs although no row reserves what
        it takes.
        """
        if self._supervisor.held and in_doubt:
            log.warning("launches_held", containers=in_doubt)
        else:
            self._supervisor.release()

    def _launch_all_the_same(self) -> None:
        """Let launches go on: one broken container must not stop the host."""
        if self._supervisor.held:
            log.error("launches_no_longer_held", seconds=HOLD_SECONDS)
            self._supervisor.release()

    def _walks(self, row: Job) -> bool:
        return row.active or self._supervisor.has(row.id)

    async def _remove_dead(self, orphans: Sequence[_Orphan]) -> None:
        """Remove those who hold up nothing for so long that they hold up no round either."""
        clock = self._line.clock
        enough = clock.monotonic() + DEAD_SECONDS
        for number, orphan in enumerate(orphans):
            if clock.monotonic() > enough:
                log.info("orphans_left_for_the_next_look", count=len(orphans) - number)
                self._supervisor.broke.set()
                return
            await self._remove_orphan(orphan)

    async def _remove_orphan(self, orphan: _Orphan) -> bool:
        """Return whether it is gone; one that does not go keeps no other from going."""
        log.warning("orphan_container", name=orphan.name)
        try:
            await self._line.runtime.remove(orphan.ref)
        except Unavailable as e:
            log.warning("orphan_stays", name=orphan.name, reason=e.message)
            self._line.observer.recovered("orphan_stayed")
            self._supervisor.broke.set()
            return False
        self._line.observer.recovered("orphan_removed")
        return True

    async def _discard_trees(self) -> None:
        """Delete the files of jobs that ended just before a crash; their containers are gone.

        What a job left that ran may be millions of files: that is the cleanup's.
        """
        line = self._line
        claimed, staged = await line.workspaces.claimed(), await line.artifacts.staged()
        known = await line.store.known(sorted({*claimed, *staged}))
        for job_id in claimed:
            row = known.get(job_id)
            over = not self._supervisor.has(job_id) and (row is None or row.terminal)
            if over and await _gone(line.workspaces.discard(job_id), job_id):
                line.observer.recovered("tree_discarded")
        for job_id in staged:
            row = known.get(job_id)
            if row and row.terminal and not row.started_at and not self._supervisor.has(job_id):
                await _gone(line.artifacts.discard_staged(job_id), job_id)
        for upload_id in await line.workspaces.finalized():
            await _gone(discard_ended_upload(line, upload_id), upload_id)

    async def _complete_logs(self, *, old: bool) -> None:
        """Take in the output that the disk did not take when its job ended.

        Args:
            old: also that of jobs whose end was not just now: a disk that was full has room soon,
                or it stays broken.
        """
        line = self._line
        try:
            left = [i for i in await line.logs.undrained() if not self._supervisor.has(i)]
        except OSError as e:
            log.warning("logs_not_completed", reason=str(e))
            return
        known = await line.store.known(left)
        enough = line.clock.monotonic() + DEAD_SECONDS
        for job_id in left:
            row = known.get(job_id)
            if row is None or row.completed_at is None or line.clock.monotonic() > enough:
                continue
            new = line.clock.now() - row.completed_at < LOG_SOON
            if (new or old) and not await self._complete_log(row) and new:
                self._supervisor.broke.set()

    async def _complete_log(self, job: Job) -> bool:
        """Return whether it is complete; one that can't be keeps no other from it."""
        try:
            await self._line.logs.drain(job.id, tries=1)
        except OSError:
            return False  # the store has said so
        except Exception:
            log.exception("log_not_completed", job_id=job.id)
            return False
        await self._line.warn(job, [LOG_COMPLETE])
        log.info("log_completed", job_id=job.id)
        return True

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
        due = 0.0
        while True:
            self._supervisor.broke.clear()
            now = self._line.clock.monotonic()
            try:
                await self.run_once(strangers=now >= due)
            except (FlashpodsError, OSError) as e:
                log.warning("recovery_deferred", reason=str(e))
                self._line.observer.recovered("deferred")
                away = True
            except Exception:
                log.exception("recovery_failed")
                self._line.observer.recovered("deferred")
                if self._bound is None:  # a defect of ours must not hold up what is new
                    self._supervisor.release()
            else:
                if now >= due:
                    due = now + self._line.policy.recovery_every
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


async def _gone(deletion: Awaitable[object], name: str) -> bool:
    """Await a deletion; what can't be deleted is left to the cleanup, and keeps no other."""
    try:
        return await deletion is not False
    except (FlashpodsError, OSError) as e:
        log.warning("leftover_stays", name=name, reason=str(e))
        return False
