"""Both stores for the contract tests, and short ways to bring them to a state."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flashpods.adapters.sqlite import transfers
from flashpods.adapters.sqlite.store import SqliteStore
from flashpods.errors import (
    FlashpodsError,
)
from flashpods.jobs.model import (
    Capacity,
    FinalTree,
    Grant,
    Job,
    JobType,
    NewJob,
    Step,
    Upload,
    UploadState,
)
from flashpods.jobs.states import (
    JobStatus,
    Trigger,
)
from flashpods.testing.stores import MemoryStore

S, T = JobStatus, Trigger
AT = datetime(2026, 11, 24, 9, 31, 26, 123000, tzinfo=UTC)
HOST = Capacity(cpus=100, memory_gb=400)
UPLOAD = "upload_abcdefghijkl"
KEY = "3f2b8c52-7c1e-4c0a-9a9b-111111111111"

# The shortest way from pending to each state.
WAYS: dict[JobStatus, tuple[Trigger, ...]] = {
    S.PENDING: (),
    S.STARTING: (T.LAUNCH,),
    S.RUNNING: (T.LAUNCH, T.STARTED),
    S.COMPLETED: (T.LAUNCH, T.STARTED, T.SUCCEED),
    S.FAILED: (T.FAIL,),
    S.TIMED_OUT: (T.LAUNCH, T.STARTED, T.TIME_OUT),
    S.CANCELLED: (T.CANCEL,),
    S.CLEANING: (T.CANCEL, T.CLEAN),
    S.CLEANED: (T.CANCEL, T.CLEAN, T.CLEANED),
}


def later(minutes: float) -> datetime:
    return AT + timedelta(minutes=minutes)


def new_job(number: int = 1, **changes: Any) -> NewJob:
    job = NewJob(
        id=f"j{number:05d}",
        client_job_id=None,
        request_sha256="a" * 64,
        type=JobType.WORKER,
        command="make",
        task=None,
        context=None,
        git_branch=None,
        files_id=None,
        image="ubuntu:22.04",
        grant=Grant(cpus=2, memory_gb=4, timeout_minutes=30),
    )
    return replace(job, **changes)


@dataclass
class Bench:
    """A store, and a way to let a transfer live in it."""

    store: Any
    begin_transfer: Callable[[str], None]
    end_transfer: Callable[[str], None]

    async def submit(self, number: int = 1, **changes: Any) -> Job:
        job, created = await self.store.submit(new_job(number, **changes), capacity=HOST, at=AT)
        assert created
        found: Job = job
        return found

    async def job_in(self, status: JobStatus, number: int = 1, **changes: Any) -> Job:
        job = await self.submit(number, **changes)
        for trigger in WAYS[status]:
            job = await self.move(job, trigger)
        assert job.status is status
        return job

    async def move(self, job: Job, trigger: Trigger, **more: Any) -> Job:
        step = Step(**{"why": trigger.value, "at": later(1)} | more)
        moved: Job = await self.store.advance(job.id, job.status, trigger, step)
        return moved

    async def finalized(self, upload_id: str = UPLOAD, size: int = 100) -> Upload:
        await self.store.reserve(upload_id, project="p", at=AT, expires_at=later(30))
        await self.store.begin_finalize(upload_id, at=later(1))
        upload: Upload = await self.complete(upload_id, size)
        return upload

    async def complete(self, upload_id: str = UPLOAD, size: int = 100, quota: int = 1000) -> Upload:
        tree = FinalTree(
            at=later(2),
            expires_at=later(62),
            size_bytes=size,
            file_count=3,
            total_quota_bytes=quota,
        )
        upload: Upload = await self.store.complete_finalize(upload_id, tree)
        return upload

    async def everything(self) -> Any:
        """All that the store shows, to see that a refusal changed nothing."""
        page = await self.store.page(statuses=None, limit=100, cursor=None)
        return (
            page,
            [await self.store.events(job.id) for job in page.jobs],
            [await self.store.artifacts(job.id) for job in page.jobs],
            await self.store.uploads(*UploadState),
            await self.store.reserved(),
            await self.store.draining(),
        )

    async def refuses(self, kind: type[Exception], code: str | None, call: Any) -> Any:
        """Await ``call``; it must raise that error and change nothing."""
        before = await self.everything()
        with pytest.raises(kind) as caught:
            await call
        if code is not None:
            assert isinstance(caught.value, FlashpodsError)
            assert caught.value.code == code
        assert await self.everything() == before
        return caught.value


def sqlite_transfer(path: Path, *, begin: bool) -> Callable[[str], None]:
    def change(upload_id: str) -> None:
        connection = sqlite3.connect(path, isolation_level=None)
        if begin:
            pid = os.getpid()
            ticks = transfers.start_ticks(pid)
            assert ticks is not None
            transfers.record(connection, upload_id, pid, [(pid, ticks)], "2026-11-24T09:31:26.123Z")
        else:
            transfers.forget(connection, os.getpid())
        connection.close()

    return change


STORES = ("memory", "sqlite")


@asynccontextmanager
async def open_bench(kind: str, directory: Path) -> AsyncIterator[Bench]:
    """Give one of :data:`STORES`, empty."""
    if kind == "memory":
        memory = MemoryStore()
        yield Bench(memory, memory.transferring.add, memory.transferring.discard)
        return
    path = directory / "flashpods.db"
    async with await SqliteStore.open(path) as store:
        yield Bench(store, sqlite_transfer(path, begin=True), sqlite_transfer(path, begin=False))
