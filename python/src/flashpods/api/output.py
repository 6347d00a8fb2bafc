"""``/jobs/{id}/output``: the end of the log, a page of it, or all of it as it grows."""

from __future__ import annotations

import re
from typing import Final

from fastapi import FastAPI
from starlette.requests import Request
from starlette.types import ASGIApp

from flashpods.api import operations
from flashpods.api.context import Context
from flashpods.api.jobs import find
from flashpods.api.parse import Query
from flashpods.api.reply import json_reply
from flashpods.api.routing import add
from flashpods.api.stream import Feeds, Follow
from flashpods.errors import BadRequest, Gone, NotFound, cut
from flashpods.jobs.model import Job
from flashpods.jobs.states import JobStatus

MOST_OFFSET: Final = 2**53 - 1  # what every JSON reader holds exactly
MOST_PAGE: Final = 1024 * 1024
_CURSOR: Final = re.compile(r"[0-9]{1,16}\Z")
_DELETED: Final = frozenset({JobStatus.CLEANING, JobStatus.CLEANED})


def refuse_deleted(job: Job) -> None:
    """Raise Gone ``logs_deleted`` if the log's retention is over."""
    if job.log_deleted_at is not None or job.status in _DELETED:
        raise Gone(f"the log of job {job.id} has been deleted", code="logs_deleted")


class Output:
    """The handler."""

    def __init__(self, context: Context) -> None:
        """Keep what it uses."""
        self._store = context.services.store
        self._logs = context.services.logs
        self._feeds = Feeds(context)

    async def get(self, request: Request) -> ASGIApp:
        """Answer with the tail, a page, or a stream."""
        query = Query(request, ("tail", "offset", "limit", "follow"))
        tail = query.whole("tail", 100, 1, 10_000)
        offset = query.whole("offset", 0, 0, MOST_OFFSET)
        limit = query.whole("limit", 64 * 1024, 1, MOST_PAGE)
        follow = query.flag("follow")
        paged = "offset" in query or "limit" in query
        if "tail" in query and (paged or follow):
            raise BadRequest("tail does not go with offset, limit or follow; give one way to read")
        if follow and "limit" in query:
            raise BadRequest("limit does not go with follow; leave it out")
        resumed = _resume(request, offset)  # a malformed header is refused, used or not
        if follow:
            offset = resumed
        job = await find(self._store, request.scope["path_params"]["job_id"])
        refuse_deleted(job)
        if follow:
            return Follow(self._feeds, job, offset)
        if job.status is JobStatus.PENDING:
            raise NotFound(
                f"job {job.id} has not started, so it has no log yet; ask again, or follow=true",
                code="logs_not_available",
            )
        page = await (
            self._logs.read(job.id, offset, limit) if paged else self._logs.tail(job.id, tail)
        )
        if page is None:  # it ended, or is about to begin, without a line
            offset = offset if paged else 0
            return json_reply(
                {
                    "output": "",
                    "lines": 0,
                    "truncated": False,
                    "total_bytes": 0,
                    "offset": offset,
                    "next_offset": offset,
                }
            )
        return json_reply(
            {
                "output": page.output,
                "lines": page.lines,
                "truncated": page.truncated,
                "total_bytes": page.total_bytes,
                "offset": page.offset,
                "next_offset": page.next_offset,
            }
        )


def _resume(request: Request, offset: int) -> int:
    """Return where to go on: a reconnecting client's last event wins over the first address."""
    last = request.headers.get("last-event-id")
    if last is None:
        return offset
    if not _CURSOR.match(last) or int(last) > MOST_OFFSET:
        raise BadRequest(f"Last-Event-ID is {cut(last)}; give the id of an event of this stream")
    return int(last)


def register(app: FastAPI, context: Context) -> None:
    """Add the call."""
    add(app, "GET", "/jobs/{job_id}/output", Output(context).get, operations.GET_OUTPUT)
