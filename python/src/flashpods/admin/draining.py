"""Draining a host: the flag, then waiting for the jobs, then cancelling what is left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from flashpods.adapters.clock import SystemClock
from flashpods.errors import Conflict, NotFound
from flashpods.jobs.model import Job
from flashpods.ports import JobStore

LOOK_SECONDS: Final = 0.5
CANCEL_AGAIN_SECONDS: Final = 60.0

Say = Callable[[str], None]


@dataclass(slots=True)
class Draining:
    """Where a drain stands: ids of jobs that still hold resources, and of those cancelled."""

    active: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)


async def begin(store: JobStore, *, say: Say) -> Draining:
    """Set the flag; return the jobs that are there."""
    await store.set_draining(True, at=SystemClock().now())
    active = [job.id for job in await store.active()]
    say(f"draining: new jobs are refused; {len(active)} jobs hold resources")
    return Draining(active)


async def wait(
    store: JobStore,
    *,
    timeout: timedelta | None,
    cancel_after: timedelta | None,
    cancel: Callable[[str], bool],
    say: Say,
) -> Draining:
    """Return when no job is left, or when ``timeout`` is over.

    Args:
        store: asked twice a second.
        timeout: None waits for as long as it takes.
        cancel_after: when to cancel what is left; None: never.
        cancel: asks the API for a job's end, and says whether it took it. Where it did not, the
            request goes into the database, and the API obeys when it next looks.
        say: told when the number of jobs changes.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    asked: dict[str, float] = {}  # job id → when we last asked for its end
    known = -1
    while True:
        active = await store.active()
        if len(active) != known and active:
            say(f"{len(active)} jobs are left: {', '.join(job.id for job in active[:8])}")
        known = len(active)
        passed = loop.time() - began
        if not active or (timeout is not None and passed >= timeout.total_seconds()):
            return Draining([job.id for job in active], sorted(asked))
        if cancel_after is not None and passed >= cancel_after.total_seconds():
            for job in active:
                if loop.time() - asked.get(job.id, -CANCEL_AGAIN_SECONDS) >= CANCEL_AGAIN_SECONDS:
                    say(f"cancelling {job.id}")
                    asked[job.id] = loop.time()
                    await _cancel(store, job, cancel)
        await asyncio.sleep(LOOK_SECONDS)


async def _cancel(store: JobStore, job: Job, cancel: Callable[[str], bool]) -> None:
    if not await asyncio.to_thread(cancel, job.id):
        with suppress(Conflict, NotFound):  # it ended meanwhile
            await store.request_cancel(job.id, at=SystemClock().now())
