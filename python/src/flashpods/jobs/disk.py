"""Ends the jobs that take too much of the host's disks while they run.

No quota of the kernel is to be had without root on most file systems, so what a job holds is
measured. That is kept cheap: what all file systems together have gained since a job was measured
bounds what it can have gained, so a job is walked only when that bound passes its budget, and now
and then. The bound does not see what another frees at the same moment; the walk now and then does.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Self

import structlog

from flashpods.errors import Unavailable
from flashpods.jobs.model import Job
from flashpods.ports import Clock, ContainerRuntime, ContainerState, DiskFill, DiskMeter, DiskUse

log = structlog.get_logger(__name__)

FIRST_SECONDS: Final = 2.0  # a job that is shorter is measured only if the disks fill
LOOK_SECONDS: Final = 10.0  # a job is measured that often at least
LOOK_MOST_LOAD: Final = 20.0  # but takes no more of the time than one part of so many
HASTE_LOAD: Final = 4.0  # likewise, while its bound is over its budget
PAUSE_LEAST, PAUSE_MOST = 0.01, 0.25  # seconds between two looks at the file systems
TOP_BYTES: Final = 4 * 1024**3  # a second; no disk of ours takes more
TOP_ENTRIES: Final = 100_000
GUARD_PAUSE: Final = 5.0  # what a job held is freed within that time after its end
GUARD_LEAST: Final = 0.01  # of a file system; ending a job that holds less saves nothing
FAILURES: Final = 3  # in a row; then a job counts as one that can't be measured

BUDGET, HOST = "disk_limit_exceeded", "host_disk_full"


@dataclass(frozen=True, slots=True, kw_only=True)
class Excess:
    """Why a job is ended: the error of its row and a sentence."""

    error: str
    why: str

    @property
    def warning(self) -> str:
        """What the row bears before the job is killed, so that a crash does not forget why."""
        return f"{self.error}: {self.why}"

    @classmethod
    def noted(cls, warnings: Iterable[str]) -> Self | None:
        """Return what a row's warnings bear; None if the job was not ended for its disk use."""
        for warning in warnings:
            error, colon, why = warning.partition(": ")
            if colon and error in {BUDGET, HOST}:
                return cls(error=error, why=why)
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What one job may hold, and how full a file system may become."""

    bytes: int
    entries: int
    guard: float  # used fraction

    def excess(self, use: DiskUse) -> Excess | None:
        """Return why a job that holds so much is to be ended, if it is."""
        if use.bytes > self.bytes:
            held = ("" if use.whole else "at least ") + _size(use.bytes)
            why = f"it holds {held} on disk, the limit is {_size(self.bytes)}"
        elif use.entries > self.entries:
            why = f"it holds over {self.entries} files and directories, which is the limit"
        else:
            return None
        return Excess(error=BUDGET, why=why)


def offender(
    guard: float,
    fills: Mapping[int, DiskFill],
    uses: Mapping[str, DiskUse],
    doubts: Mapping[str, float] | None = None,
) -> str | None:
    """Return the job that is to go, because a file system is ``guard`` full: who holds most of it.

    Args:
        guard: the used fraction.
        fills: the file systems.
        uses: what each job is known to hold.
        doubts: of a job that can't be measured, the bytes that it can hold at most. It counts for
            what of them no other job is known to hold.

    Returns:
        None if none is so full, or if no job holds enough of it for its end to matter.
    """
    everything = sum(use.bytes for use in uses.values())
    for device, fill in fills.items():
        if fill.fraction >= guard and uses:
            held = {job_id: use.where.get(device, 0) for job_id, use in uses.items()}
            here = sum(held.values())
            unexplained = {
                job_id: min(
                    most - (everything - uses[job_id].bytes),
                    fill.bytes_used - (here - held[job_id]),
                )
                for job_id, most in (doubts or {}).items()
            }
            for job_id, size in unexplained.items():
                held[job_id] = max(held[job_id], int(size))
            most = max(held, key=held.__getitem__)
            if held[most] >= GUARD_LEAST * fill.bytes_total:
                return most
    return None


@dataclass(slots=True)
class _Watched:
    """A running job, and what is known of it."""

    job: Job
    container_id: str
    verdict: asyncio.Future[Excess]
    use: DiskUse  # when it was last measured wholly
    least: DiskUse  # as far as is known, what was counted in part included
    gained: tuple[int, int]  # the odometer when it was measured wholly
    bounded: bool  # whether ``use`` and what was gained since bound what it holds
    at: float  # when it was last looked at
    took: float = 0.0
    failures: int = 0  # in a row
    container: ContainerState | None = None

    @property
    def doubtful(self) -> bool:
        """Whether what is known of it may be far from what it holds."""
        return not self.least.whole or self.failures >= FAILURES

    def learn(self, use: DiskUse, gained: tuple[int, int]) -> None:
        """Take up what was counted when the odometer showed ``gained``."""
        self.failures = 0
        if use.whole:
            self.use = self.least = use
            self.gained, self.bounded = gained, True
            return
        devices = {*use.where, *self.least.where}
        where = {d: max(use.where.get(d, 0), self.least.where.get(d, 0)) for d in devices}
        entries = max(use.entries, self.least.entries)
        self.least = DiskUse(where=where, entries=entries, whole=False)


class DiskWatch:
    """Watches all running jobs with one loop."""

    def __init__(
        self, meter: DiskMeter, runtime: ContainerRuntime, clock: Clock, budget: Budget
    ) -> None:
        """Watch nothing yet; :meth:`run` does."""
        self._meter = meter
        self._runtime = runtime
        self._clock = clock
        self._budget = budget
        self._watched: dict[str, _Watched] = {}
        self._some = asyncio.Event()
        self._last: dict[int, DiskFill] = {}
        self._gained = (0, 0)  # bytes and entries that the file systems gained, ever
        self._guarded_until = 0.0

    def has(self, job_id: str) -> bool:
        """Return whether the job is watched."""
        return job_id in self._watched

    def crowded(self) -> bool:
        """Return whether the host is so full that who holds most is ended."""
        return any(fill.fraction >= self._budget.guard for fill in self._meter.fills().values())

    async def exceeded(self, job: Job, container_id: str) -> Excess:
        """Return when the job is to be ended; the caller cancels it when the job has ended."""
        young = job.started_at is not None and (
            (self._clock.now() - job.started_at).total_seconds() < FIRST_SECONDS
        )
        now = self._clock.monotonic()
        nothing = DiskUse(where={}, entries=0)
        watched = _Watched(
            job=job,
            container_id=container_id,
            verdict=asyncio.get_running_loop().create_future(),
            use=nothing,
            least=nothing,
            gained=self._gained,
            bounded=young,
            at=now if young else now - LOOK_SECONDS,
        )
        self._watched[job.id] = watched
        self._some.set()
        try:
            return await watched.verdict
        finally:
            if self._watched.get(job.id) is watched:
                del self._watched[job.id]

    async def run(self) -> None:
        """Watch for ever; what fails is logged and tried again."""
        while True:
            if not self._watched:
                self._some.clear()
                self._last = {}
                await self._some.wait()
            pause = PAUSE_MOST
            try:
                pause = await self.look()
            except Exception:  # a defect here must not leave the disks unwatched
                log.exception("disk_watch_failed")
            await self._clock.sleep(pause)

    async def look(self) -> float:
        """Look once; return the seconds until the next look is due."""
        fills = self._meter.fills()
        self._count(fills)
        for watched in list(self._watched.values()):
            if self._due(watched):
                await self._measure(watched)
        await self._guard(fills)
        return self._pause()

    def _count(self, fills: dict[int, DiskFill]) -> None:
        size, entries = self._gained
        for device, fill in fills.items():
            last = self._last.get(device, fill)
            size += max(0, fill.bytes_used - last.bytes_used)
            entries += max(0, fill.entries_used - last.entries_used)
        self._last = fills
        self._gained = (size, entries)

    def _most(self, watched: _Watched) -> tuple[int, int]:
        """Return the bytes and entries that the job can hold by now."""
        return (
            watched.use.bytes + self._gained[0] - watched.gained[0],
            watched.use.entries + self._gained[1] - watched.gained[1],
        )

    def _due(self, watched: _Watched) -> bool:
        if watched.verdict.done():
            return False
        size, entries = self._most(watched)
        since = self._clock.monotonic() - watched.at
        if size > self._budget.bytes or entries > self._budget.entries:
            return since > HASTE_LOAD * watched.took
        usual = LOOK_SECONDS if watched.container else FIRST_SECONDS
        return since > usual + LOOK_MOST_LOAD * watched.took * len(self._watched)

    async def _measure(self, watched: _Watched) -> None:
        began, gained = self._clock.monotonic(), self._gained
        try:
            if watched.container is None:  # where it is stays as it is
                watched.container = await self._runtime.inspect(watched.container_id)
            if watched.container is None:
                return  # its monitor is about to see that
            most = self._budget.entries
            use = await self._meter.held(watched.job, watched.container, most=most)
        except Unavailable as e:
            log.warning("disk_use_unknown", job_id=watched.job.id, reason=e.message)
            watched.at, watched.took = self._clock.monotonic(), 1.0
            watched.failures += 1
            return
        watched.at = self._clock.monotonic()
        watched.took = watched.at - began
        watched.learn(use, gained)
        if excess := self._budget.excess(use):
            self._end(watched, excess)

    async def _guard(self, fills: Mapping[int, DiskFill]) -> None:
        """End the job that holds most of a file system that is about to be full."""
        now = self._clock.monotonic()
        fullest = max((fill.fraction for fill in fills.values()), default=0.0)
        if fullest < self._budget.guard or now < self._guarded_until:
            return
        for watched in list(self._watched.values()):
            if not watched.verdict.done() and now - watched.at > HASTE_LOAD * watched.took:
                await self._measure(watched)
        alive = {i: w for i, w in self._watched.items() if not w.verdict.done()}
        self._guarded_until = self._clock.monotonic() + GUARD_PAUSE
        uses = {i: w.least for i, w in alive.items()}
        doubts = {
            i: self._most(w)[0] if w.bounded else math.inf for i, w in alive.items() if w.doubtful
        }
        chosen = offender(self._budget.guard, fills, uses, doubts)
        if chosen is not None:
            held = _size(alive[chosen].least.bytes)
            why = f"the host's disk is {100 * fullest:.0f} % full, and no job holds more: {held}"
            if alive[chosen].doubtful:
                why = (
                    f"the host's disk is {100 * fullest:.0f} % full, and what fills it is held by "
                    f"no job that can be measured; of this one {held} could be counted"
                )
            self._end(alive[chosen], Excess(error=HOST, why=why))

    def _end(self, watched: _Watched, excess: Excess) -> None:
        if not watched.verdict.done():
            log.warning("job_ended_for_disk", job_id=watched.job.id, reason=excess.warning)
            watched.verdict.set_result(excess)

    def _pause(self) -> float:
        """Return the time in which no job can pass its budget, within reason."""
        pause = PAUSE_MOST
        for watched in self._watched.values():
            size, entries = self._most(watched)
            pause = min(
                pause,
                (self._budget.bytes - size) / TOP_BYTES,
                (self._budget.entries - entries) / TOP_ENTRIES,
            )
        return max(pause, PAUSE_LEAST)


def _size(number: int) -> str:
    return f"{number / 1024**3:.2f} GiB"
