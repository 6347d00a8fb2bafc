"""What the tests of a job's line share: the host as its in-memory adapters, and its moves.

What belongs to Podman, SQLite and the disk is shown in tests/contract and tests/system.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flashpods.errors import InsufficientStorage
from flashpods.jobs.changes import InProcessChanges
from flashpods.jobs.disk import Budget, DiskWatch
from flashpods.jobs.line import Line, Policy
from flashpods.jobs.model import (
    Capacity,
    Grant,
    Job,
    JobType,
    NewJob,
    Step,
)
from flashpods.jobs.recovery import Recovery
from flashpods.jobs.states import JobStatus, Trigger
from flashpods.jobs.supervisor import Supervisor
from flashpods.ports import ContainerSpec, RecoveryAction
from flashpods.testing.clock import ManualClock
from flashpods.testing.files import FakeArtifactStore, FakeDiskMeter, FakeWorkspaces
from flashpods.testing.logs import MemoryLogStore
from flashpods.testing.runtime import IMAGE, MemoryRuntime, simple_spec
from flashpods.testing.stores import MemoryStore

HOST = Capacity(cpus=8, memory_gb=32)


class World:
    """The adapters outlive the use cases, as the host outlives a process of ours."""

    def __init__(self, root: Path) -> None:
        self.clock = ManualClock()
        self.runtime = MemoryRuntime(now=self.clock.now)
        self.store = MemoryStore()
        self.logs = MemoryLogStore()
        self.artifacts = FakeArtifactStore(root / "artifacts")
        self.workspaces = FakeWorkspaces(root)
        self.policy = Policy()
        self.changes = InProcessChanges()
        self.meter = FakeDiskMeter()
        self.told: list[Job] = []
        self.recoveries: list[RecoveryAction] = []
        self.supervisor: Supervisor
        self.recovery: Recovery
        self.boot()

    def boot(self) -> None:
        """Start a process of ours: new use cases over what is there."""
        budget = Budget(bytes=2**30, entries=1000, guard=1)
        self.disk = DiskWatch(self.meter, self.runtime, self.clock, budget)
        line = Line(
            store=self.store,
            uploads=self.store,
            runtime=self.runtime,
            logs=self.logs,
            artifacts=self.artifacts,
            workspaces=self.workspaces,
            clock=self.clock,
            changes=self.changes,
            disk=self.disk,
            policy=self.policy,
            observer=self,
        )
        self.supervisor = Supervisor(line)
        self.recovery = Recovery(line, self.supervisor)

    def entered(self, job: Job) -> None:
        self.told.append(job)

    def recovered(self, action: RecoveryAction) -> None:
        self.recoveries.append(action)

    async def crash(self) -> None:
        """Leave everything where it is and start anew."""
        await self.supervisor.close()
        self.boot()

    async def accept(self, **fields: object) -> Job:
        new = NewJob(
            id=secrets.token_hex(8),
            client_job_id=None,
            request_sha256="",
            type=JobType.WORKER,
            command="make",
            task=None,
            context=None,
            git_branch=None,
            files_id=None,
            image=IMAGE,
            grant=Grant(cpus=1, memory_gb=1, timeout_minutes=1),
        )
        changed = replace(new, **fields)  # type: ignore[arg-type]  # the tests' own shorthand
        job, _ = await self.store.submit(changed, capacity=HOST, at=self.clock.now())
        return job

    async def running(self, **fields: object) -> Job:
        job = await self.accept(**fields)
        self.supervisor.begin(job)
        await self.runtime.until(job.container_name, "running")
        return await self.until(job, JobStatus.RUNNING)

    async def until(self, job: Job, status: JobStatus) -> Job:
        async with asyncio.timeout(30):
            while (row := await self.store.get(job.id)) is None or row.status is not status:
                await self.changes.wait(job.id, 0.02)
            return row

    async def ended(self, job: Job) -> Job:
        async with asyncio.timeout(30):
            await self.supervisor.idle()
        row = await self.store.get(job.id)
        assert row is not None
        assert row.terminal
        assert await self.runtime.inspect(job.container_name) is None, "the container stays"
        assert await self.workspaces.claimed() == [], "the workspace stays"
        assert (await self.store.reserved()).jobs == 0, "resources stay reserved"
        return row

    async def history(self, job: Job) -> list[str]:
        return [event.to_status.value for event in await self.store.events(job.id)]


async def row_of(world: World, job: Job) -> Job:
    row = await world.store.get(job.id)
    assert row is not None
    return row


async def recovered(world: World) -> None:
    await world.recovery.run_once()


async def starting(world: World, *, status: str | None) -> Job:
    """Leave a job as a crash in the middle of its launch does."""
    job = await world.accept()
    now = world.clock.now()
    job = await world.store.advance(job.id, job.status, Trigger.LAUNCH, Step(why="test", at=now))
    if status is not None:
        await world.workspaces.claim(None, job.id)
        await world.artifacts.prepare(job.id)
        container_id = await world.runtime.create(spec_of(world, job))
        if status != "initialized":
            await world.runtime.start(container_id)
        if status == "exited":
            world.runtime.exit(job.container_name, 0)
    return job


async def failed(world: World, job: Job) -> None:
    """End the job's row, whatever the engine still holds of it."""
    step = Step(why="test", at=world.clock.now())
    await world.store.advance(job.id, job.status, Trigger.FAIL, step)


def spec_of(world: World, job: Job) -> ContainerSpec:
    return replace(simple_spec(job.id), log_path=world.logs.capture_path(job.id))


def full_disk(
    world: World, patch: pytest.MonkeyPatch, *names: str, until_emptied: Job | None = None
) -> None:
    """Have the database's disk take no such write: for good, or until a job's layer is emptied."""
    for name in names:
        write = getattr(world.store, name)

        async def full(*words: Any, write: Any = write, **more: Any) -> Any:
            if until_emptied is None or until_emptied.container_name not in world.runtime.emptied:
                raise InsufficientStorage("the disk of the database is full")
            return await write(*words, **more)

        patch.setattr(world.store, name, full)
