"""Images that do not come in time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from flashpods.adapters.podman.images import Images
from flashpods.adapters.podman.rest import RestClient
from flashpods.adapters.sqlite.store import SqliteStore
from flashpods.admin import ending
from flashpods.admin.doctor.finding import Finding, Look, Severity
from flashpods.admin.doctor.jobs import RECENT, SHOWN
from flashpods.admin.opened import with_store
from flashpods.config import Podman
from flashpods.errors import FlashpodsError
from flashpods.jobs.model import Job, Phase
from flashpods.jobs.states import JobStatus

SLOW: Final = 1 / 5  # of the time that a job may be "starting"; then a pull is worth a word
ENGINE_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class _Rows:
    waiting: list[tuple[Job, datetime]]  # with when they began to start
    ended: list[Job]  # within the last hour, because they did not come to run


def images(look: Look) -> list[Finding]:
    """Name the images that jobs wait for, or waited for in vain.

    A job that never came to run, and whose image is not here now, waited for it.
    """
    if look.podman_fails:
        return []  # nothing comes
    rows = with_store(look.settings, lambda store: _rows(store, look.now))
    slow = timedelta(seconds=look.settings.jobs.starting_seconds * SLOW)
    waiting = [job for job, since in rows.waiting if look.now - since > slow]
    try:
        absent = asyncio.run(_absent(look.settings.podman, {job.image for job in rows.ended}))
    except (FlashpodsError, TimeoutError):
        return []  # the check of Podman says so
    vain = [job for job in rows.ended if job.image in absent]
    if not waiting + vain:
        return []
    named = sorted({job.image for job in waiting + vain})[:SHOWN]
    what = [f"{len(vain)} jobs ended before they ran"] if vain else []
    what += [f"{len(waiting)} jobs wait"] if waiting else []
    return [
        Finding(
            code="image_on_its_way",
            severity=Severity.WARNING if vain else Severity.NOTICE,
            symptom=f"{', '.join(what)}: their image is not here",
            cause="it is large, or the network or its registry is slow",
            evidence=tuple(f"{job.id} {job.status.value} {job.image}" for job in waiting + vain)[
                :SHOWN
            ],
            remedy=(f"flashpods-admin pull-images {' '.join(named)}",),
            anchor="jobs-stuck-in-starting",
        )
    ]


async def _rows(store: SqliteStore, now: datetime) -> _Rows:
    pulling = [job for job in await store.active() if job.phase is Phase.PULLING]
    page = await store.page(statuses=[JobStatus.FAILED], limit=100, cursor=None)
    ended = [
        job
        for job in page.jobs
        if job.error == ending.ERROR and job.completed_at and now - job.completed_at < RECENT
    ]
    return _Rows([(job, await ending.since(store, job)) for job in pulling], ended)


async def _absent(podman: Podman, wanted: set[str]) -> set[str]:
    """Return which of the images the engine has not."""
    rest = RestClient(podman.socket, call_seconds=ENGINE_SECONDS, calls=1, waits=1)
    there = Images(rest, idle_seconds=podman.pull_idle_seconds)
    try:
        async with asyncio.timeout(ENGINE_SECONDS):
            return {image for image in wanted if not await there.present(image)}
    finally:
        await rest.close()
