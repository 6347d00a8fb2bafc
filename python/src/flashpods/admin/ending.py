"""Ends jobs from outside the API, by the same table and in the same order as it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from flashpods.admin.command import AdminError
from flashpods.bootstrap import Adapters
from flashpods.errors import StaleState, Unavailable
from flashpods.jobs.model import Job, Outcome, Step
from flashpods.jobs.states import JobStatus, Trigger
from flashpods.ports import JobStore

EARLY: Final = frozenset({JobStatus.PENDING, JobStatus.STARTING})
ERROR: Final = "stuck_in_starting"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What came of one job; ``left`` says why it stays as it is."""

    job_id: str
    was: str
    now: str
    left: str | None = None
    dry: bool = False


async def stuck(
    store: JobStore, job_ids: Sequence[str], older_than: timedelta, now: datetime
) -> list[Job]:
    """Return the jobs that are meant: those of the ids, or all in ``starting`` for that long.

    Raises:
        AdminError: ``job_not_found``, ``job_not_stuck`` (it runs, or has ended).
    """
    if not job_ids:
        early = [job for job in await store.active() if job.status is JobStatus.STARTING]
        return [job for job in early if now - await since(store, job) >= older_than]
    found = []
    for job_id in dict.fromkeys(job_ids):
        job = await store.get(job_id)
        if job is None:
            raise AdminError(f"there is no job {job_id!r:.80}", code="job_not_found")
        if job.status not in EARLY:
            how = "end it with: flashpods kill" if job.active else "there is nothing to end:"
            raise AdminError(
                f"job {job_id} is {job.status.value}; {how} {job_id}", code="job_not_stuck"
            )
        found.append(job)
    return found


async def since(store: JobStore, job: Job) -> datetime:
    """Return when the job came into the state that it is in."""
    events = [e.at for e in await store.events(job.id) if e.to_status is job.status]
    return max(events, default=job.created_at)


async def fail(adapters: Adapters, job: Job, *, dry_run: bool) -> Ended:
    """End a job that does not run: its container first, since others get its resources then.

    The API that may be walking it finds its row moved on, and lets it be.
    """
    was = job.status.value
    # A cancellation that was acknowledged decides how the job ends.
    trigger = Trigger.FAIL if job.cancel_requested_at is None else Trigger.CANCEL
    if dry_run:
        return Ended(job_id=job.id, was=was, now=was, left="would be ended", dry=True)
    try:
        await adapters.runtime.remove(job.container_name)
        step = Step(
            why="ended by the administrator: it did not start",
            at=adapters.clock.now(),
            outcome=Outcome(error=ERROR if trigger is Trigger.FAIL else None),
        )
        row = await adapters.store.advance(job.id, job.status, trigger, step)
    except Unavailable as e:
        return Ended(job_id=job.id, was=was, now=was, left=f"left as it is: {e.message}")
    except StaleState:
        row = await adapters.store.get(job.id) or job
    return Ended(job_id=job.id, was=was, now=row.status.value)
