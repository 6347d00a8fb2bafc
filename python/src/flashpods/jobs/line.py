"""What every step of a job's line works with: the ports, the policy, and the one way to advance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

import structlog

from flashpods.errors import InsufficientStorage, StaleState, Unavailable
from flashpods.jobs.disk import DiskWatch
from flashpods.jobs.model import Artifact, Job, Note, Outcome, Phase, Step
from flashpods.jobs.states import Trigger
from flashpods.jobs.states import advance as next_status
from flashpods.ports import (
    UNOBSERVED,
    ArtifactStore,
    Changes,
    Clock,
    ContainerRuntime,
    JobStore,
    LogStore,
    Observer,
    UploadStore,
    Workspaces,
)

log = structlog.get_logger(__name__)

TRIES: Final = 5  # of a transition while the store does not answer
PAUSE: Final = 1.0  # seconds between them


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The numbers of contract section 2. Times in seconds."""

    grace: float = 10
    starting: float = 300
    backstop_slack: float = 30
    recovery_every: float = 60
    launch_slots: int = 4
    agent_env: Mapping[str, str] = field(default_factory=dict)  # of agents, beside their task
    pids: int = 2048
    bases: int = 8
    allow_unenforced_limits: bool = False
    mounts: Mapping[str, Path] = field(default_factory=dict)  # container path → host path
    env: Mapping[str, str] = field(default_factory=dict)  # of every job, beside its own


class JobFailed(Exception):
    """A step can't go on; the job ends as ``failed`` with this error code."""

    def __init__(self, code: str, why: str) -> None:
        """Keep the code for the row and the sentence for the event."""
        super().__init__(why)
        self.code = code
        self.why = why


class CancelRequested(Exception):
    """The caller asked for the job's end while it was not running yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """The ports and the policy, and the two ways a row changes on the line."""

    store: JobStore
    uploads: UploadStore
    runtime: ContainerRuntime
    logs: LogStore
    artifacts: ArtifactStore
    workspaces: Workspaces
    clock: Clock
    changes: Changes
    disk: DiskWatch
    policy: Policy
    observer: Observer = UNOBSERVED

    async def advance(
        self,
        job: Job,
        trigger: Trigger,
        why: str,
        *,
        outcome: Outcome | None = None,
        phase: Phase | None = None,
        container_id: str | None = None,
        artifacts: Sequence[Artifact] | None = None,
        at: datetime | None = None,
    ) -> Job:
        """Move the job from the state it is known to be in, and wake who waits for it.

        A store that does not answer is asked again, :data:`TRIES` times: an attempt that was given
        up may have been written all the same, which the next one finds out.

        Raises:
            StaleState: somebody else moved it first.
            Unavailable: the store did not answer at all.
        """
        target = next_status(job.status, trigger)
        for attempt in range(TRIES):
            try:
                step = Step(
                    why=why,
                    at=at or self.clock.now(),
                    outcome=outcome,
                    phase=phase,
                    container_id=container_id,
                    artifacts=None if artifacts is None else tuple(artifacts),
                )
                moved = await self.store.advance(job.id, job.status, trigger, step)
            except StaleState:
                row = await self.store.get(job.id) if attempt else None
                if row is None or row.status is not target:
                    raise
                moved = row
            except Unavailable:
                if attempt + 1 == TRIES:
                    raise
                await self.clock.sleep(PAUSE)
                continue
            break
        self.changes.publish(job.id)
        self.observer.entered(moved)
        return moved

    async def show(self, job: Job, phase: Phase) -> None:
        """Show a phase; it is only for the eye, so a store that can't take it is let be."""
        try:
            self.observer.entered(await self.store.note(job.id, Note(phase=phase)))
        except (Unavailable, InsufficientStorage) as e:
            log.warning("phase_not_shown", job_id=job.id, phase=phase.value, reason=e.message)
        self.changes.publish(job.id)

    async def make_room(self, job: Job) -> None:
        """Free what a dead job filled the disk with: nobody can note its end without room.

        Nor could the engine notice it, or remove its container.
        """
        try:
            await self.runtime.empty(job.container_name)
        except Unavailable as e:
            log.warning("disk_not_freed", job_id=job.id, reason=e.message)

    async def warn(self, job: Job, warnings: Sequence[str]) -> None:
        """Add warnings; the store keeps each once, so this may be repeated."""
        if warnings:
            await self.store.note(job.id, Note(warnings=tuple(warnings)))
            self.changes.publish(job.id)
