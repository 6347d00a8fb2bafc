"""Looks at what a scrape must not wait for, every few seconds, and keeps what it saw."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

import structlog

from flashpods.errors import FlashpodsError
from flashpods.jobs.model import Reserved
from flashpods.ports import ContainerRuntime, DiskGauge, JobStore, LogStore
from flashpods.ports.identity import IdentityChain
from flashpods.telemetry.status import (
    BackupStatus,
    CleanupStatus,
    StatusFiles,
    read_backup,
    read_cleanup,
    read_elsewhere,
)

log = structlog.get_logger(__name__)

CHECK_SECONDS: Final = 2.0
SLOW_EVERY: Final = 4  # samples between looks whose cost grows with what is kept
SLOW_SECONDS: Final = 60.0
KEPT: Final = 6 * 60  # points of the history: six hours, at a minute each


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What the sampler saw last; empty and None where it could not look."""

    at: float = 0.0  # Unix time
    up: Mapping[str, bool] = field(default_factory=dict)  # component → whether it answers
    disk: Mapping[str, float] = field(default_factory=dict)  # tree → used part of its file system
    log_bytes: int | None = None
    log_files: int | None = None
    artifact_bytes: int | None = None
    cleanup: CleanupStatus | None = None
    backup: BackupStatus | None = None
    elsewhere: float | None = None  # Unix time of the last copy elsewhere; 0: there was none


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What was held and how full the disks were at a moment; kept in memory only."""

    at: datetime
    reserved: Reserved
    disk: Mapping[str, float]  # tree → used part of its file system


class Sampler:
    """Takes samples in the background; :attr:`last` is the newest, :attr:`history` the past."""

    def __init__(
        self,
        *,
        store: JobStore,
        logs: LogStore,
        runtime: ContainerRuntime,
        disk: DiskGauge,
        trees: Mapping[str, str],
        identity: IdentityChain | None,
        files: StatusFiles,
        every: float,
    ) -> None:
        """Look at nothing yet.

        Args:
            store: asked whether it answers, and for the artifacts' size.
            logs: asked for their size.
            runtime: asked whether it answers.
            disk: how full the trees' file systems are.
            trees: the gauge's path → the name of the tree in the label.
            identity: asked whether both parts answer; None: not configured.
            files: where other processes leave word.
            every: seconds between samples.
        """
        self._store = store
        self._logs = logs
        self._disk = disk
        self._trees = trees
        self._files = files
        self._every = every
        self._pings: dict[str, Callable[[], Awaitable[None]]] = {
            "database": store.ping,
            "podman": runtime.ping,
        }
        if identity is not None:
            self._pings["spire_agent"] = identity.ping_agent
            self._pings["token_service"] = identity.ping_tokens
        self.last = Sample()
        self.history: deque[Point] = deque(maxlen=KEPT)

    async def run(self) -> None:
        """Take a sample every ``every`` seconds, until cancelled."""
        rounds = 0
        while True:
            try:
                await self.take(slow=rounds % SLOW_EVERY == 0)
            except Exception:
                log.exception("sample_failed")  # a defect of ours; the age of the last one tells
            rounds += 1
            await asyncio.sleep(self._every)

    async def take(self, *, slow: bool = True) -> None:
        """Take one sample; ``slow``: also what costs more the more is kept."""
        answers = await asyncio.gather(*(_answers(ping) for ping in self._pings.values()))
        read = await asyncio.to_thread(self._read, self.last)
        sample = replace(read, up=dict(zip(self._pings, answers, strict=True)))
        if slow:
            sample = await self._add_sizes(sample)
            await self._remember(sample)
        self.last = replace(sample, at=time.time())

    @property
    def history_seconds(self) -> float:
        """How far apart the points of the history are."""
        return self._every * SLOW_EVERY

    async def _remember(self, sample: Sample) -> None:
        try:
            reserved = await self._store.reserved()
        except FlashpodsError:
            return  # a gap in a picture
        self.history.append(Point(at=datetime.now(UTC), reserved=reserved, disk=sample.disk))

    def _read(self, before: Sample) -> Sample:
        try:
            usage = {self._trees.get(path, path): part for path, part in self._disk.usage().items()}
        except OSError as e:
            log.warning("disk_not_measured", reason=str(e))
            usage = {}
        return replace(
            before,
            disk=usage,
            cleanup=read_cleanup(self._files.cleanup),
            backup=read_backup(self._files.backup),
            elsewhere=read_elsewhere(self._files.elsewhere),
        )

    async def _add_sizes(self, sample: Sample) -> Sample:
        try:
            async with asyncio.timeout(SLOW_SECONDS):
                stored = await self._logs.stored()
                return replace(
                    sample,
                    log_bytes=sum(size for _, size in stored),
                    log_files=len(stored),
                    artifact_bytes=await self._store.artifact_bytes(),
                )
        except (FlashpodsError, OSError) as e:  # TimeoutError is an OSError
            log.warning("sizes_not_measured", reason=str(e) or type(e).__name__)
            return sample


async def _answers(ping: Callable[[], Awaitable[None]]) -> bool:
    """Whether it answers in time."""
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await ping()
    except (FlashpodsError, OSError):
        return False
    return True
