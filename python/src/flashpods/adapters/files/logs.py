"""The logs as files: follows every job's capture, wakes those who read along, serves pages.

Costs: an idle job costs nothing. Its capture directory has a one-shot inotify watch, which fires
once, is set again by the next pass, and so bounds the events under flood to one a pass. A pass
takes 1 MiB of raw output at most, in one of two threads, and passes of one job are 20 ms apart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final, TypeVar
from weakref import WeakValueDictionary

import structlog
from asyncinotify import Inotify, Mask

from flashpods.adapters.files import logread
from flashpods.adapters.files.capture import Capture, capture_max_bytes, sweep
from flashpods.adapters.files.k8sfile import LINE_BYTES, log_head
from flashpods.adapters.files.openlogs import OpenLogs, read_apart
from flashpods.bulkhead import Bulkhead
from flashpods.jobs import names
from flashpods.ports import DRAIN_TRIES, TAIL_BYTES, LogTail

PASS_SECONDS: Final = 0.02  # between two passes of one job
CAPPED_SECONDS: Final = 0.25  # between two looks at a job whose log is full
UNWATCHED_SECONDS: Final = 0.5  # between two looks where the kernel gives no watch
RETRY_SECONDS: Final = (0.5, 30.0)  # the first and the longest pause after a failed pass
THREADS: Final = 2
INLINE_BYTES: Final = 256 * 1024  # larger pages are read in a thread even when in memory
LARGE_AT_ONCE: Final = 4  # tails in threads: each holds some megabytes
TURN_SECONDS: Final = 15.0  # for one of these places

_WATCHED: Final = Mask.MODIFY | Mask.MOVED_TO | Mask.ONESHOT
_T = TypeVar("_T")
_log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Follow:
    """A job whose raw output we follow."""

    capture: Capture
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    page: LogTail | None = None  # the last one read, for the next who reads it
    asked: tuple[int, int, int] | None = None  # for which offset and limit, at which end


@dataclass(slots=True)
class _Waiters:
    """Those who wait for one log to change."""

    future: asyncio.Future[None]
    count: int = 0


class FileLogStore:
    """Keeps ``<logs>/<job_id>.log`` and, until a log is complete, ``<capture>/<job_id>/``.

    A log is open from the first ``write``, ``capture_path`` or ``follow`` until ``drain`` or
    ``delete``: a job that fails before it has a container must be drained too.

    Args:
        logs: directory of the logs; made, 0750, if it is not there.
        capture: directory of the raw output, on a file system with hard links; likewise.
        log_bytes: what a log holds before it ends with the line of its truncation.

    Raises:
        OSError: a directory can't be made.
    """

    def __init__(self, logs: Path, capture: Path, *, log_bytes: int) -> None:
        self.capture_max_bytes = capture_max_bytes(log_bytes)
        """The size at which the engine must rotate a raw file (``--log-opt max-size``)."""
        self._logs = logs
        self._capture = capture
        self._log_bytes = log_bytes
        self._marker = logread.truncation_line(log_bytes)
        for directory in (logs, capture):
            directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        sweep(capture)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="capture")
        self._follows: dict[str, _Follow] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._waiters: dict[str, _Waiters] = {}
        self._open = OpenLogs(logs)
        self._large = Bulkhead(LARGE_AT_ONCE, seconds=TURN_SECONDS, work="other logs are read")
        self._inotify: Inotify | None = None
        self._events: asyncio.Task[None] | None = None
        self._closed = False

    # ------------------------------------------------------------------ writing

    async def write(self, job_id: str, text: str, *, at: datetime) -> None:
        """Append a line of ours, or several; dropped with a warning once the container's began."""
        head = log_head(at)
        parts = text.encode("utf-8", "replace").rstrip(b"\n").split(b"\n")
        lines = b"".join(head + part[:LINE_BYTES] + b"\n" for part in parts)
        capture = self._new(job_id)
        async with self._lock(job_id):
            written = await self._offload(partial(capture.note, lines))
        if not written:
            _log.warning("log_line_dropped", job_id=job_id, reason="late, or too many of ours")
        self._notify(job_id)

    def capture_path(self, job_id: str) -> Path:
        """Return ``<capture>/<job_id>/raw``, made and linked so that a rotation loses nothing.

        Raises OSError. Some system calls, no waiting for a disk in general.
        """
        capture = self._new(job_id)
        capture.prepare()
        return capture.raw

    async def follow(self, job_id: str) -> None:
        """Begin or resume; a no-op when it is followed already, or its log is complete.

        Raises OSError if the capture can't be opened.
        """
        async with self._lock(job_id):
            known = self._follows.get(job_id)
            if self._closed or (known and known.task and not known.task.done()):
                return
            capture = self._new(job_id)
            if not self._path(job_id).exists():
                await self._offload(capture.prepare)
            await self._offload(capture.open)
            if capture.finished:
                return
            self._start_inotify()
            follow = _Follow(capture)
            self._follows[job_id] = follow
            follow.task = asyncio.create_task(self._run(job_id, follow), name=f"log {job_id}")
        self._notify(job_id)

    async def drain(self, job_id: str, *, tries: int = DRAIN_TRIES) -> None:
        """Take in the rest, make the log durable, drop the raw output.

        Raises:
            OSError: the log could not be written, by default for about 4 s; a later call goes on.
        """
        async with self._lock(job_id):
            follow = self._follows.get(job_id)
            capture = follow.capture if follow else self._new(job_id)
            if follow:
                await self._stop(follow)
            pause = RETRY_SECONDS[0]
            for attempt in range(1, tries + 1):
                try:
                    await self._offload(capture.open)
                    while await self._offload(partial(capture.step, final=True)):
                        self._notify(job_id)
                    await self._offload(capture.seal)
                    break
                except OSError as e:
                    _log.warning("log_drain_failed", job_id=job_id, attempt=attempt, reason=str(e))
                    self._follows.pop(job_id, None)
                    if attempt == tries:
                        raise
                    await asyncio.sleep(pause)
                    pause *= 2
                    capture = self._new(job_id)  # what it knew of the files may be what is wrong
            self._follows.pop(job_id, None)
        self._notify(job_id)

    async def delete(self, job_id: str) -> None:
        """Delete log and raw output; absent is fine. Raises OSError."""
        async with self._lock(job_id):
            follow = self._follows.pop(job_id, None)
            if follow:
                await self._stop(follow)
            await self._offload((follow.capture if follow else self._new(job_id)).delete)
            self._open.close(_name(job_id))
        self._notify(job_id)

    async def close(self) -> None:
        """Stop following, end the threads, as a kill would; repeated: a no-op."""
        if self._closed:
            return
        self._closed = True
        for follow in list(self._follows.values()):
            await self._stop(follow)
        if self._events:
            self._events.cancel()
            await asyncio.wait((self._events,))
        if self._inotify:
            self._inotify.close()
        for job_id in list(self._waiters):
            self._notify(job_id)
        self._open.close_all()
        self._pool.shutdown(wait=True)

    # ------------------------------------------------------------------ reading

    async def tail(
        self, job_id: str, lines: int, *, most_bytes: int = TAIL_BYTES
    ) -> LogTail | None:
        """See :meth:`flashpods.ports.LogStore.tail`; large ones wait for one of four places."""
        fd, end = self._open.get(_name(job_id)), self._end(job_id)
        if fd is None:
            return None
        small = min(INLINE_BYTES, most_bytes)
        # Here and now if it is small and in memory: a thread would take longer than the work.
        try:
            page = logread.read_tail(fd, lines, end, self._marker, cached=True, most=small)
        except logread.NotCached:
            pass
        else:
            if small == most_bytes or page.lines == lines or page.offset == 0:
                return page
        async with self._large.place():
            return await asyncio.to_thread(
                read_apart,
                self._path(job_id),
                lambda fd: logread.read_tail(
                    fd, lines, end, self._marker, cached=False, most=most_bytes
                ),
            )

    async def read(self, job_id: str, offset: int, limit: int) -> LogTail | None:
        """Return complete lines from ``offset``; an empty page beyond the end."""
        follow = self._follows.get(job_id)
        if follow is None:
            return await self._page(job_id, offset, limit)
        key = (offset, limit, follow.capture.visible)  # the same page for all who follow
        if follow.asked == key:
            return follow.page
        page = await self._page(job_id, offset, limit)
        if page is not None and page.total_bytes == key[2]:
            follow.asked, follow.page = key, page
        return page

    async def changed(self, job_id: str, offset: int, timeout: float) -> None:
        """Return when there is more beyond ``offset``, when there will be none, or in time.

        For a log that has not begun yet (and ``offset`` 0) it waits for its beginning.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while not self._ready(job_id, offset):
            left = deadline - loop.time()
            if left <= 0:
                return
            waiters = self._waiters.get(job_id)
            if waiters is None:
                waiters = self._waiters[job_id] = _Waiters(loop.create_future())
            waiters.count += 1
            try:
                await asyncio.wait((waiters.future,), timeout=left)
            finally:
                waiters.count -= 1
                if not waiters.count and self._waiters.get(job_id) is waiters:
                    del self._waiters[job_id]
            if self._closed and waiters.future.done():
                return

    async def undrained(self) -> list[str]:
        """See :meth:`flashpods.ports.LogStore.undrained`. Raises OSError."""
        return await asyncio.to_thread(logread.undrained, self._capture)

    async def stored(self) -> list[tuple[str, int]]:
        """Return (job id, bytes on disk), by job id. Raises OSError."""
        return await asyncio.to_thread(logread.stored, self._logs, self._capture)

    # ------------------------------------------------------------------ the parts

    def _new(self, job_id: str) -> Capture:
        log = self._path(job_id)
        return Capture(job_id, log, self._capture / job_id, log_bytes=self._log_bytes)

    def _path(self, job_id: str) -> Path:
        return self._logs / _name(job_id)

    def _end(self, job_id: str) -> logread.End | None:
        """Return the end of what a job that is followed shows; None for a log that is complete."""
        follow = self._follows.get(job_id)
        return (follow.capture.visible, follow.capture.capped) if follow else None

    def _lock(self, job_id: str) -> asyncio.Lock:
        return self._locks.setdefault(job_id, asyncio.Lock())

    async def _offload(self, work: Callable[[], _T]) -> _T:
        """Run bounded work in our threads; a cancelled caller still waits for its end.

        So no two threads are ever at the files of one job.
        """
        future = asyncio.get_running_loop().run_in_executor(self._pool, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            while not future.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait((future,))
            if not future.cancelled():
                future.exception()  # seen: nobody is there to be told
            raise

    async def _run(self, job_id: str, follow: _Follow) -> None:
        """Follow one job until cancelled."""
        capture, pause = follow.capture, 0.0
        while True:
            follow.wake.clear()
            watched = self._watch(follow)
            seen = capture.visible
            try:
                more = await self._offload(capture.step)
            except OSError as e:
                if not pause:
                    _log.warning("log_capture_stalled", job_id=job_id, reason=str(e))
                pause = min(max(pause * 2, RETRY_SECONDS[0]), RETRY_SECONDS[1])
                await asyncio.sleep(pause)
                continue
            if pause:
                pause = 0.0
                _log.info("log_capture_resumed", job_id=job_id)
            if capture.visible != seen or capture.capped:
                self._notify(job_id)
            await asyncio.sleep(CAPPED_SECONDS if capture.capped else PASS_SECONDS)
            if not more:
                with suppress(TimeoutError):
                    async with asyncio.timeout(None if watched else UNWATCHED_SECONDS):
                        await follow.wake.wait()

    @staticmethod
    async def _stop(follow: _Follow) -> None:
        if follow.task:
            follow.task.cancel()
            await asyncio.wait((follow.task,))
            follow.task = None

    def _start_inotify(self) -> None:
        if self._events is None:
            try:
                self._inotify = Inotify(cache_size=64)
            except OSError as e:  # max_user_instances: every follower then looks by itself
                _log.warning("inotify_unavailable", reason=str(e))
                return
            self._events = asyncio.create_task(self._dispatch(self._inotify), name="log events")

    def _watch(self, follow: _Follow) -> bool:
        """Set the job's watch (again); False where it can't be."""
        if self._inotify is None:
            return False
        try:
            self._inotify.add_watch(follow.capture.directory, _WATCHED)
        except OSError as e:  # max_user_watches, or the directory went away
            _log.debug("inotify_watch_failed", job_id=follow.capture.job_id, reason=str(e))
            return False
        return True

    async def _dispatch(self, inotify: Inotify) -> None:
        async for event in inotify:
            if Mask.Q_OVERFLOW in event.mask:
                for follow in self._follows.values():
                    follow.wake.set()
            elif event.watch is not None and event.watch.path.name in self._follows:
                self._follows[event.watch.path.name].wake.set()

    def _notify(self, job_id: str) -> None:
        waiters = self._waiters.pop(job_id, None)
        if waiters:
            waiters.future.set_result(None)

    def _ready(self, job_id: str, offset: int) -> bool:
        """Whether a follower at ``offset`` has something to read or nothing to wait for."""
        follow = self._follows.get(job_id)
        if follow is not None:
            return follow.capture.visible > offset
        fd = self._open.get(_name(job_id))
        if fd is None:
            return offset > 0  # it has been deleted; else it has not begun
        end, _ = logread.complete_end(fd, self._marker)
        return end > offset or not (self._capture / job_id).exists()

    async def _page(self, job_id: str, offset: int, limit: int) -> LogTail | None:
        """Read a page here if it is in memory and small, else in a thread."""
        fd, end = self._open.get(_name(job_id)), self._end(job_id)
        if fd is None:
            return None
        if limit <= INLINE_BYTES:
            with suppress(logread.NotCached):
                return logread.read_page(fd, offset, limit, end, self._marker, cached=True)
        return await asyncio.to_thread(
            read_apart,
            self._path(job_id),
            lambda fd: logread.read_page(fd, offset, limit, end, self._marker, cached=False),
        )


def _name(job_id: str) -> str:
    return f"{names.job_id(job_id)}.log"
