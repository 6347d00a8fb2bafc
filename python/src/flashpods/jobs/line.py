"""What every step of a job's line works with: the ports, the policy, and the one way to advance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flashpods.jobs.model import Artifact, Job, Outcome, Phase
from flashpods.jobs.states import Trigger
from flashpods.ports import (
    ArtifactStore,
    Changes,
    Clock,
    ContainerRuntime,
    JobStore,
    LogStore,
    UploadStore,
    Workspaces,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The numbers of contract section 2. Times in seconds."""

    grace: float = 10
    starting: float = 300
    backstop_slack: float = 30
    recovery_every: float = 60
    launch_slots: int = 4
    pids: int = 2048
    bases: int = 8
    allow_unenforced_limits: bool = False
    mounts: Mapping[str, Path] = field(default_factory=dict)  # container path → host path


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
    policy: Policy

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
    ) -> Job:
        """Move the job from the state it is known to be in, and wake who waits for it.

        Raises:
            StaleState: somebody else moved it first.
        """
        moved = await self.store.advance(
            job.id,
            job.status,
            trigger,
            why=why,
            at=self.clock.now(),
            outcome=outcome,
            phase=phase,
            container_id=container_id,
            artifacts=artifacts,
        )
        self.changes.publish(job.id)
        return moved

    async def note(
        self, job: Job, *, phase: Phase | None = None, warnings: Sequence[str] = ()
    ) -> Job:
        """Show a phase or add warnings."""
        noted = await self.store.note(job.id, phase=phase, warnings=warnings)
        self.changes.publish(job.id)
        return noted
