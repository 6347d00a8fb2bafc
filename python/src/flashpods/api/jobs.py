"""``/jobs``: post, list, look, wait, cancel."""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final

from fastapi import FastAPI
from starlette.requests import Request

from flashpods.api import operations
from flashpods.api.context import WAITED, Context
from flashpods.api.parse import Query, from_cursor, json_body, no_query, to_cursor
from flashpods.errors import BadRequest, NotFound, cut
from flashpods.jobs.model import Job, JobEvent
from flashpods.jobs.names import JOB_ID
from flashpods.jobs.states import ACTIVE, JobStatus
from flashpods.ports import Clock, JobStore
from flashpods.web.reply import Reply, json_reply
from flashpods.web.routing import add

MOST_WAIT: Final = 60.0
REVISION: Final = re.compile(r"(?=.{1,64}\Z)[a-z_]+(?:\.[a-z_]+){0,2}\Z")
REREAD_SECONDS: Final = 1.0  # the cleanup process changes rows too, and can't wake us


async def find(store: JobStore, job_id: str) -> Job:
    """Return the job.

    Raises:
        NotFound: ``job_not_found``; without a look at the database for what can't be an id.
    """
    job = await store.get(job_id) if JOB_ID.match(job_id) else None
    if job is None:
        raise _unknown(job_id)
    return job


def _unknown(job_id: str) -> NotFound:
    return NotFound(
        f"there is no job {cut(job_id)}; GET /jobs?status=all lists them", code="job_not_found"
    )


def revision(job: Job) -> str:
    """Return what differs when status, phase or cancellation do: what ``since`` is compared with.

    It is made of these alone, so that it is the same after a restart, and in every process.
    """
    parts = [job.status.value, *([job.phase.value] if job.phase else [])]
    return ".".join(parts + (["cancelling"] if job.cancel_requested_at else []))


def view(job: Job, clock: Clock) -> dict[str, Any]:
    """Return the job as lists show it; times in seconds."""
    row: dict[str, Any] = {
        "id": job.id,
        "type": job.type,
        "status": job.status,
        "phase": job.phase,
        "revision": revision(job),
        "command": job.command,
        "task": job.task,
        "git_branch": job.git_branch,
        "files_id": job.files_id,
        "client_job_id": job.client_job_id,
        "image": job.image,
        "cpus": job.cpus,
        "memory_gb": job.memory_gb,
        "timeout_minutes": job.timeout_minutes,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "completed_at": job.completed_at,
        "cancel_requested": job.cancel_requested_at is not None,
        "exit_code": job.exit_code,
        "error": job.error,
        "warnings": job.warnings,
    }
    begun = job.started_at or job.created_at
    if job.completed_at is None:
        row["elapsed_seconds"] = max(0.0, round((clock.now() - begun).total_seconds(), 3))
    else:
        ran = max(0.0, round((job.completed_at - begun).total_seconds(), 3))
        row["duration_seconds"] = ran
        if job.status is JobStatus.TIMED_OUT:
            row["actual_runtime_seconds"] = ran
    return row


def _event(event: JobEvent) -> dict[str, Any]:
    return {"from": event.from_status, "to": event.to_status, "at": event.at, "why": event.why}


def _statuses(names: list[str]) -> list[JobStatus] | None:
    """Return the states asked for; None for all."""
    chosen: set[JobStatus] = set()
    everything = not names
    for name in names:
        if name == "all":
            everything = True
        elif name == "active":
            chosen |= ACTIVE
        else:
            try:
                chosen.add(JobStatus(name))
            except ValueError:
                raise BadRequest(
                    f"status is {cut(name)}; give all, active or one of "
                    f"{', '.join(s.value for s in JobStatus)}"
                ) from None
    return None if everything else sorted(chosen)


def _waiting(query: Query) -> tuple[float, str | None]:
    """Return how many seconds to wait for a change, and from which revision on.

    Raises:
        BadRequest: ``since`` is no revision.
    """
    since = query.one("since")
    if since is not None and not REVISION.match(since):
        raise BadRequest(f"since is {cut(since)}; give the revision of an earlier answer")
    return query.seconds("wait", MOST_WAIT), since


class Jobs:
    """The handlers."""

    def __init__(self, context: Context) -> None:
        """Keep what they use."""
        self._services = context.services
        self._store = context.services.store
        self._clock = context.services.clock
        self._held = context.held

    async def submit(self, request: Request) -> Reply:
        """Accept a job, or find the one that the same key made."""
        no_query(request)
        job, created = await self._services.submitter.submit(json_body(request))
        answer = {
            "job_id": job.id,
            "status": job.status,
            "created": created,
            "granted": {
                "cpus": job.cpus,
                "memory_gb": job.memory_gb,
                "timeout_minutes": job.timeout_minutes,
            },
            "warnings": job.warnings,
        }
        location = (b"location", f"/jobs/{job.id}".encode())
        return json_reply(answer, 201 if created else 200, (location,))

    async def page(self, request: Request) -> Reply:
        """List jobs, newest first."""
        query = Query(request, ("status", "limit", "cursor"))
        cursor = query.one("cursor")
        page = await self._store.page(
            statuses=_statuses(query.many("status")),
            limit=query.whole("limit", 20, 1, 100),
            cursor=None if cursor is None else from_cursor(cursor),
        )
        return json_reply(
            {
                "jobs": [view(job, self._clock) for job in page.jobs],
                "total": page.total,
                "next_cursor": None if page.next_cursor is None else to_cursor(page.next_cursor),
            }
        )

    async def get(self, request: Request) -> Reply:
        """Show a job with its events, at once or when its state has changed."""
        job_id: str = request.scope["path_params"]["job_id"]
        wait, since = 0.0, None
        if request.scope["query_string"]:
            wait, since = _waiting(Query(request, ("wait", "since")))
        if wait:
            job = await find(self._store, job_id)
            if not job.terminal and since in {None, revision(job)}:
                request.scope[WAITED] = True
                await self._changed(job, wait)
        found = await self._store.history(job_id) if JOB_ID.match(job_id) else None
        if found is None:
            raise _unknown(job_id)
        job, events = found
        row = view(job, self._clock)
        row["events"] = [_event(event) for event in events]
        return json_reply(row)

    async def _changed(self, job: Job, wait: float) -> None:
        """Return once the job's status, phase or cancellation differs, or time is up."""
        before = revision(job)
        try:
            async with asyncio.timeout(wait) as until:
                with self._held.slot(until):
                    while revision(job) == before:
                        await self._services.changes.wait(job.id, REREAD_SECONDS)
                        job = await find(self._store, job.id)
        except TimeoutError:
            pass  # it is shown as it is

    async def cancel(self, request: Request) -> Reply:
        """Record the wish to end the job."""
        no_query(request)
        job = await find(self._store, request.scope["path_params"]["job_id"])
        await self._services.cancel(job.id)
        return json_reply({"job_id": job.id, "status": JobStatus.CANCELLED})


def register(app: FastAPI, context: Context) -> None:
    """Add the calls."""
    handlers = Jobs(context)
    add(app, "GET", "/jobs/{job_id}", handlers.get, operations.GET_JOB)
    add(app, "POST", "/jobs", handlers.submit, operations.POST_JOB, status=201)
    add(app, "GET", "/jobs", handlers.page, operations.LIST_JOBS)
    add(app, "DELETE", "/jobs/{job_id}", handlers.cancel, operations.CANCEL_JOB)
