"""``/jobs/{id}/output``: the end of the log, a page of it, or all of it as it grows."""

from __future__ import annotations

import asyncio
import re
from typing import Final

from fastapi import FastAPI
from starlette.requests import Request
from starlette.types import ASGIApp

from flashpods.api import operations
from flashpods.api.context import Context
from flashpods.api.jobs import find
from flashpods.api.parse import Query
from flashpods.api.stream import Feeds, Follow
from flashpods.bulkhead import Bulkhead
from flashpods.errors import BadRequest, Gone, NotFound, cut
from flashpods.jobs.model import Job
from flashpods.jobs.states import JobStatus
from flashpods.ports import LogTail
from flashpods.web.reply import JSON, Reply, json_reply, to_json
from flashpods.web.routing import add

MOST_OFFSET: Final = 2**53 - 1  # what every JSON reader holds exactly
MOST_PAGE: Final = 1024 * 1024
SMALL_BYTES: Final = 256 * 1024  # text that the event loop may make JSON of by itself
PIECE: Final = 64 * 1024
LARGE_AT_ONCE: Final = 4  # larger answers being made: each holds some megabytes
TURN_SECONDS: Final = 15.0
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
        self._large = Bulkhead(
            LARGE_AT_ONCE, seconds=TURN_SECONDS, work="other large answers are being made"
        )

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
        return await (self._page(job.id, offset, limit) if paged else self._tail(job.id, tail))

    async def _tail(self, job_id: str, lines: int) -> Reply:
        """Answer with the last lines; a large answer waits for its turn before it is read."""
        page = await self._logs.tail(job_id, lines, most_bytes=SMALL_BYTES)
        if page is None:
            return _reply(None, 0)
        whole = page.lines == lines or page.offset == 0
        if whole and len(page.output) <= SMALL_BYTES:
            return _reply(page, 0)
        del page  # not held while we wait
        async with self._large.place():
            return await asyncio.to_thread(_reply, await self._logs.tail(job_id, lines), 0)

    async def _page(self, job_id: str, offset: int, limit: int) -> Reply:
        """Answer with a page, likewise."""
        if limit <= SMALL_BYTES:
            page = await self._logs.read(job_id, offset, limit)
            if page is None or len(page.output) <= SMALL_BYTES:
                return _reply(page, offset)
            del page  # one line, longer than that
        async with self._large.place():
            page = await self._logs.read(job_id, offset, limit)
            return await asyncio.to_thread(_reply, page, offset)


def _reply(page: LogTail | None, offset: int) -> Reply:
    """Answer with lines, or that there is none: it ended, or is about to begin, without one."""
    if page is None:
        page = LogTail(
            output="", lines=0, truncated=False, total_bytes=0, offset=offset, next_offset=offset
        )
    about = {
        "lines": page.lines,
        "truncated": page.truncated,
        "total_bytes": page.total_bytes,
        "offset": page.offset,
        "next_offset": page.next_offset,
    }
    if len(page.output) <= SMALL_BYTES:
        return json_reply({"output": page.output, **about})
    # In pieces: orjson takes eight times a string's length for it, and keeps other threads waiting.
    starts = range(0, len(page.output), PIECE)
    pieces = [to_json(page.output[at : at + PIECE])[1:-1] for at in starts]
    return Reply(200, b"".join((b'{"output":"', *pieces, b'",', to_json(about)[1:])), (JSON,))


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
