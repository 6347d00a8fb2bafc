"""Jobs that hang, fail in numbers, or are refused."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from flashpods.adapters.podman.runtime import PodmanRuntime
from flashpods.adapters.sqlite.store import SqliteStore
from flashpods.admin import ending
from flashpods.admin.doctor.finding import Finding, Look, Severity
from flashpods.admin.opened import with_store
from flashpods.config import Settings
from flashpods.errors import FlashpodsError
from flashpods.jobs.model import Job
from flashpods.jobs.states import JobStatus
from flashpods.ports import ContainerState

SHOWN: Final = 8  # ids that a finding names
RECENT: Final = timedelta(hours=1)
FAILED_WARNING, FAILED_CRITICAL = 5, 10  # in the last hour; the seed's thresholds
LATE_SLACK: Final = timedelta(seconds=120)
ENGINE_SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True)
class _Rows:
    draining: bool
    active: list[tuple[Job, datetime]]  # with when it came into its state
    failed: list[Job]  # in the last hour


def jobs(look: Look) -> list[Finding]:
    """Look at the rows of jobs."""
    rows = with_store(look.settings, lambda store: _rows(store, look.now))
    found = _stuck(look, rows)
    found += _late(look, rows)
    found += _failures(rows)
    if rows.draining:
        found.append(
            Finding(
                code="draining",
                severity=Severity.NOTICE,
                symptom="POST /jobs answers 503: the host is draining",
                cause="somebody ran flashpods-admin drain; it holds until it is ended",
                remedy=("flashpods-admin resume",),
                anchor="drain",
            )
        )
    return found


async def _rows(store: SqliteStore, now: datetime) -> _Rows:
    active = [(job, await ending.since(store, job)) for job in await store.active()]
    wanted = [JobStatus.FAILED, JobStatus.TIMED_OUT]
    page = await store.page(statuses=wanted, limit=100, cursor=None)
    recent = [j for j in page.jobs if j.completed_at and now - j.completed_at < RECENT]
    return _Rows(await store.draining(), active, recent)


def _stuck(look: Look, rows: _Rows) -> list[Finding]:
    limit = timedelta(seconds=look.settings.jobs.starting_seconds)
    stuck = [
        job
        for job, since in rows.active
        if job.status is JobStatus.STARTING and look.now - since > limit
    ]
    if not stuck:
        return []
    if look.health is None:
        cause, first = (
            "the API, which starts jobs and ends those that hang, does not run",
            ("systemctl restart flashpods-api",),
        )
    elif look.podman_fails:
        cause, first = "Podman does not answer", ("systemctl restart podman-socket-flashpods",)
    else:
        cause = "Podman makes no container of them, or their limits can't be set"
        first = ("journalctl -u podman-socket-flashpods --since -10m",)
    return [
        Finding(
            code="jobs_stuck_in_starting",
            severity=Severity.CRITICAL,
            symptom=f"{len(stuck)} jobs are 'starting' for more than {limit.total_seconds():g} s",
            cause=cause,
            evidence=_named(stuck),
            remedy=(*first, "flashpods-admin fail-stuck"),
            anchor="jobs-stuck-in-starting",
        )
    ]


def _late(look: Look, rows: _Rows) -> list[Finding]:
    jobs = look.settings.jobs
    grace = timedelta(seconds=jobs.grace_seconds + jobs.backstop_slack_seconds) + LATE_SLACK
    late = [
        job
        for job, since in rows.active
        if job.status is JobStatus.RUNNING
        and look.now - since > timedelta(minutes=job.timeout_minutes) + grace
    ]
    if not late:
        return []
    return [
        Finding(
            code="jobs_past_their_deadline",
            severity=Severity.CRITICAL,
            symptom=f"{len(late)} jobs are 'running' long after their timeout",
            cause="nobody collects them: the API does not run, or can't reach Podman",
            evidence=_named(late),
            remedy=("systemctl restart flashpods-api", "flashpods-admin doctor"),
            anchor="jobs-stuck-in-starting",
        )
    ]


def _failures(rows: _Rows) -> list[Finding]:
    count = len(rows.failed)
    if count <= FAILED_WARNING:
        return []
    errors: dict[str, list[str]] = {}
    for job in rows.failed:
        errors.setdefault(job.error or f"exit code {job.exit_code}", []).append(job.id)
    common = sorted(errors.items(), key=lambda item: -len(item[1]))[:SHOWN]
    return [
        Finding(
            code="many_failures",
            severity=Severity.CRITICAL if count > FAILED_CRITICAL else Severity.WARNING,
            symptom=f"{count} jobs failed within the last hour",
            cause=f"most often: {common[0][0]}",
            evidence=tuple(
                f"{len(ids)} times {error}, such as job {ids[0]}" for error, ids in common
            ),
            remedy=("flashpods ps --status failed", "flashpods-admin events JOB"),
            anchor="flashpodshighfailurerate",
        )
    ]


def _named(found: list[Job]) -> tuple[str, ...]:
    return tuple(
        f"{job.id} {job.status.value}{f' ({job.phase.value})' if job.phase else ''} {job.image}"
        for job in found[:SHOWN]
    )


def orphans(look: Look) -> list[Finding]:
    """Find containers that no active row explains."""
    if look.podman_fails:
        return []  # and half a minute is not waited in vain
    try:
        containers = asyncio.run(_containers(look.settings))
    except (FlashpodsError, TimeoutError):
        return []  # the check of Podman says so
    ids = [c.job_id for c in containers]
    known = with_store(look.settings, lambda store: store.known(ids))
    grace = timedelta(seconds=look.settings.cleanup.orphan_grace_seconds) + LATE_SLACK
    orphaned = [c for c in containers if not _explained(known.get(c.job_id), look.now, grace)]
    if not orphaned:
        return []
    return [
        Finding(
            code="orphan_containers",
            severity=Severity.WARNING,
            symptom=f"{len(orphaned)} containers run or lie about whose job has ended",
            cause="recovery and cleanup do not run, or Podman refuses to remove them",
            evidence=tuple(f"{c.name} {c.status}" for c in orphaned[:SHOWN]),
            remedy=("flashpods-admin gc", "systemctl restart flashpods-cleanup"),
            anchor="cleanup-falls-behind",
        )
    ]


def _explained(job: Job | None, now: datetime, grace: timedelta) -> bool:
    if job is None:
        return False
    return job.active or (job.completed_at is not None and now - job.completed_at < grace)


async def _containers(settings: Settings) -> list[ContainerState]:
    engine = PodmanRuntime(settings.podman)
    try:
        async with asyncio.timeout(ENGINE_SECONDS):
            return await engine.containers()
    finally:
        await engine.close()
