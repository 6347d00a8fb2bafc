"""Logs as server-sent events, cheap for many followers of one log.

Each job that is followed has one :class:`Feed`: two tasks watch its row and its log for all its
followers. A chunk of the log is formatted once and shared through a small cache. A follower holds
one chunk at most; the next is taken when the client has taken this one.

The wire format (the WHATWG's "server-sent events"): an event is a batch of complete lines, ``id``
is the byte offset after them, and each log line is one ``data`` line, as it is in the log. A
carriage return would end a ``data`` line, so a batch that holds one comes as ``event: encoded``,
its ``data`` the batch's whole text, last line feed included, as one JSON string (RFC 8259).
``event: end`` closes the stream of an ended job; a stream that closes without it is to be resumed
with ``Last-Event-ID``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import Final

import structlog
from starlette.types import Receive, Scope, Send

from flashpods.api.context import Context
from flashpods.errors import FlashpodsError
from flashpods.jobs.model import Job
from flashpods.ports import LogStore
from flashpods.services import Services
from flashpods.web.reply import to_json

CHUNK_BYTES: Final = 64 * 1024
CACHED_CHUNKS: Final = 32
HEARTBEAT_SECONDS: Final = 15.0
ROW_SECONDS: Final = 5.0  # active jobs are changed by this process, which wakes us; this is a net
IDLE_SECONDS: Final = 1.0
# Between two wakes of a feed, per follower: 500 followers are woken ten times a second at most,
# and get larger batches instead.
PACE_SECONDS: Final = 0.0002

_HEADERS: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
)

log = structlog.get_logger(__name__)


class Chunks:
    """Formatted pieces of logs, by job and offset; a log only grows, so they stay true."""

    def __init__(self, logs: LogStore) -> None:
        """Cache nothing yet."""
        self._logs = logs
        self._known: OrderedDict[tuple[str, int], tuple[bytes, int]] = OrderedDict()

    async def at(self, job_id: str, offset: int) -> tuple[bytes, int]:
        """Return (event, offset after it); no event where there is nothing to read."""
        key = (job_id, offset)
        known = self._known.get(key)
        if known is not None:
            self._known.move_to_end(key)
            return known
        page = await self._logs.read(job_id, offset, CHUNK_BYTES)
        if page is None or not page.output:
            return b"", offset
        chunk = (to_event(page.output, page.next_offset), page.next_offset)
        self._known[key] = chunk
        if len(self._known) > CACHED_CHUNKS:
            self._known.popitem(last=False)
        return chunk


def to_event(text: str, cursor: int) -> bytes:
    """Format complete lines as one event: as they are, or encoded where a CR is among them."""
    if "\r" in text:
        return b"id: %d\nevent: encoded\ndata: %b\n\n" % (cursor, to_json(text))
    lines = text.removesuffix("\n").replace("\n", "\ndata: ")
    return f"id: {cursor}\ndata: {lines}\n\n".encode()


class Feed:
    """What all followers of one job share."""

    def __init__(self, job: Job, services: Services, chunks: Chunks) -> None:
        """Begin to watch; :meth:`close` ends it."""
        self.job = job
        self.ended = asyncio.Event()
        self.tick = asyncio.Event()  # replaced at each wake: set means "look again"
        self.followers = 0
        self._services = services
        self._chunks = chunks
        self._tasks: list[asyncio.Task[None]] = []
        if job.terminal:
            self.ended.set()
            return
        for watch in (self._watch_row(), self._watch_log()):
            self._tasks.append(asyncio.create_task(watch, name=f"feed {job.id}"))

    def _wake(self) -> None:
        self.tick.set()
        self.tick = asyncio.Event()

    async def _watch_row(self) -> None:
        """Wait for the job's end. Its log is complete before its row says so."""
        while not self.job.terminal:
            await self._services.changes.wait(self.job.id, ROW_SECONDS)
            try:
                row = await self._services.store.get(self.job.id)
            except FlashpodsError as e:
                log.warning("a follower's job can't be read", job_id=self.job.id, reason=e.message)
                await asyncio.sleep(IDLE_SECONDS)
                continue
            if row is None:
                break
            self.job = row
        self.ended.set()
        self._wake()

    async def _watch_log(self) -> None:
        """Wake the followers when the log has grown; only then, whatever woke us."""
        logs, job_id = self._services.logs, self.job.id
        end = 0
        while not self.ended.is_set():
            before = end
            try:
                await logs.changed(job_id, end, HEARTBEAT_SECONDS)
                tail = await logs.tail(job_id, 1)
                end = tail.total_bytes if tail else end
            except (FlashpodsError, OSError) as e:
                log.warning("a followed log can't be read", job_id=job_id, reason=str(e))
            if end > before:
                self._wake()
                await asyncio.sleep(PACE_SECONDS * self.followers)
                continue
            # Nothing new: time was up, or the log is complete and its job not yet ended.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(IDLE_SECONDS if end else IDLE_SECONDS / 10):
                    await self.ended.wait()

    async def close(self) -> None:
        """Stop watching."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Feeds:
    """The feeds of the jobs that are followed now."""

    def __init__(self, context: Context) -> None:
        """Have none."""
        self.held = context.held
        self.chunks = Chunks(context.services.logs)
        self._services = context.services
        self._feeds: dict[str, Feed] = {}

    @contextlib.asynccontextmanager
    async def follow(self, job: Job) -> AsyncIterator[Feed]:
        """Share the job's feed; the last one to leave closes it."""
        feed = self._feeds.get(job.id)
        if feed is None:
            feed = self._feeds[job.id] = Feed(job, self._services, self.chunks)
        feed.followers += 1
        try:
            yield feed
        finally:
            feed.followers -= 1
            if not feed.followers:
                del self._feeds[job.id]
                await feed.close()


class Follow:
    """One client's stream, as an answer."""

    def __init__(self, feeds: Feeds, job: Job, offset: int) -> None:
        """Begin at byte ``offset`` of the job's log."""
        self._feeds = feeds
        self._job = job
        self._offset = offset

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        """Send until the job has ended, the client has left, or the process stops.

        Raises:
            Unavailable: too many streams are open; nothing has been sent yet.
        """
        begun = False
        try:
            async with asyncio.timeout(None) as until:
                with self._feeds.held.slot(until):
                    async with self._feeds.follow(self._job) as feed:
                        begun = True
                        await send(
                            {"type": "http.response.start", "status": 200, "headers": _HEADERS}
                        )
                        watcher = asyncio.create_task(_left(receive, until))
                        try:
                            await self._run(feed, send)
                        finally:
                            watcher.cancel()
        except TimeoutError:
            if not begun:
                raise
        await send({"type": "http.response.body", "body": b""})

    async def _run(self, feed: Feed, send: Send) -> None:
        job_id, offset = self._job.id, self._offset
        while True:
            # In this order: what was written before the end is in the log when we look after it.
            ended, tick = feed.ended.is_set(), feed.tick
            event, offset = await self._feeds.chunks.at(job_id, offset)
            if event:
                await _part(send, event)
            elif ended:
                await _part(send, _end(feed.job, offset))
                return
            else:
                try:
                    async with asyncio.timeout(HEARTBEAT_SECONDS):
                        await tick.wait()
                except TimeoutError:
                    await _part(send, b": still here\n\n")


def _end(job: Job, offset: int) -> bytes:
    data = to_json({"status": job.status, "exit_code": job.exit_code, "error": job.error})
    return b"id: %d\nevent: end\ndata: %b\n\n" % (offset, data)


async def _part(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def _left(receive: Receive, until: asyncio.Timeout) -> None:
    """Bring the stream's end forward when the client closes the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
    until.reschedule(asyncio.get_running_loop().time())
