"""Compares rows with containers, and puts jobs back on their lines."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from typing import Final

import structlog

from flashpods.errors import FlashpodsError, Unavailable
from flashpods.jobs.collect import discard_ended_upload
from flashpods.jobs.launch import FIRST_BACKOFF, MOST_BACKOFF
from flashpods.jobs.line import Line
from flashpods.jobs.model import Job, job_of
from flashpods.jobs.states import JobStatus
from flashpods.jobs.supervisor import Supervisor
from flashpods.ports import ContainerState

log = structlog.get_logger(__name__)

LATE_LOOK: Final = 2.0  # seconds between looks while the engine may do what nobody waits for


class Recovery:
    """Compares rows with containers, at start and every minute; contract section 2's table."""

    def __init__(self, line: Line, supervisor: Supervisor) -> None:
        """Build it."""
        self._line = line
        self._supervisor = supervisor

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
        unseen = await self._resume(await line.store.active())
        await self._remove_orphans(containers, remnants, strangers=strangers)
        await self._discard_trees()
        if unseen is not None:
            raise unseen

    async def _remove_orphans(
        self, containers: Sequence[ContainerState], remnants: Sequence[str], *, strangers: bool
    ) -> None:
        whole = {container.name for container in containers}
        left = {name: job_id for name in remnants if (job_id := job_of(name)) and name not in whole}
        known = await self._line.store.known(
            sorted({*left.values(), *(container.job_id for container in containers)})
        )
        for container in containers:
            row = known.get(container.job_id)
            ours = row is not None and container.name == row.container_name and self._walks(row)
            if not ours and (row is not None or strangers):
                await self._remove_orphan(container.id, container.name)
        for name, job_id in left.items():
            row = known.get(job_id)
            ours = self._supervisor.has(job_id) if row is None else self._walks(row)
            if not ours and (row is not None or strangers):
                await self._remove_orphan(name, name)

    async def _resume(self, jobs: Iterable[Job]) -> Exception | None:
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
        unseen: Exception | None = None
        for job, found in zip(
            left, await asyncio.gather(*looks, return_exceptions=True), strict=True
        ):
            if isinstance(found, Exception):
                log.warning("job_not_resumed", job_id=job.id, reason=str(found))
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
            over = not self._supervisor.has(job_id) and (row is None or row.terminal)
            if over and await _gone(line.workspaces.discard(job_id), job_id):
                line.observer.recovered("tree_discarded")
        for job_id in staged:
            row = known.get(job_id)
            if row and row.terminal and not row.started_at and not self._supervisor.has(job_id):
                await _gone(line.artifacts.discard_staged(job_id), job_id)
        for upload_id in await line.workspaces.finalized():
            await _gone(discard_ended_upload(line, upload_id), upload_id)

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
                self._supervisor.release()  # a defect of ours must not hold up what is new
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
