"""A LogStore in memory, with the plainest code there is, for tests of what stands on the port."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from flashpods.adapters.files.k8sfile import ParserState, flush, log_head, parse, whole_lines
from flashpods.adapters.files.logread import truncation_line
from flashpods.jobs import names
from flashpods.ports import DRAIN_TRIES, TAIL_BYTES, LogTail


@dataclass
class _Log:
    """One job's raw output and log."""

    lines: list[bytes] = field(default_factory=list)
    raw: bytes = b""
    parser: ParserState = field(default_factory=ParserState)
    following: bool = False
    began: bool = False
    finished: bool = False
    truncated: bool = False


class MemoryLogStore:
    """As :class:`flashpods.adapters.files.logs.FileLogStore`, but :meth:`feed` is the engine."""

    def __init__(self, *, log_bytes: int = 50 * 1024**2) -> None:
        self.capture_max_bytes = 3 * log_bytes
        self._log_bytes = log_bytes
        self._logs: dict[str, _Log] = {}
        self._change = asyncio.Condition()

    async def feed(self, job_id: str, raw: bytes) -> None:
        """Add raw output in the engine's format, as its container would (tests only)."""
        log = self._log(job_id)
        log.raw += raw
        if log.following:
            await self._take(log)

    async def write(self, job_id: str, text: str, *, at: datetime) -> None:
        """Append lines of ours; dropped once the container's began."""
        log = self._log(job_id)
        if not log.began and not log.finished:
            parts = text.encode("utf-8", "replace").rstrip(b"\n").split(b"\n")
            self._append(log, [log_head(at) + part for part in parts])
        await self._notify()

    def capture_path(self, job_id: str) -> Path:
        """Return a path that nothing is behind; use :meth:`feed`."""
        self._log(job_id)
        return Path("/nonexistent/capture") / job_id / "raw"

    async def follow(self, job_id: str) -> None:
        """Begin to turn raw output into the log."""
        log = self._log(job_id)
        if not log.finished:
            log.following = log.began = True
            await self._take(log)

    async def drain(self, job_id: str, *, tries: int = DRAIN_TRIES) -> None:  # noqa: ARG002 - port
        """Take the rest and finish the log."""
        log = self._logs.get(job_id)
        if log is None or log.finished:
            return
        await self._take(log)
        if log.raw:
            lines, log.parser = parse(log.raw, log.parser)
            self._append(log, lines)
        self._append(log, flush(log.parser))
        log.raw, log.finished = b"", True
        await self._notify()

    async def tail(
        self, job_id: str, lines: int, *, most_bytes: int = TAIL_BYTES
    ) -> LogTail | None:
        """Return the last lines."""
        log = self._logs.get(job_id)
        if log is None:
            return None
        first = max(0, len(log.lines) - lines)
        while first < len(log.lines) - 1 and sum(map(len, log.lines[first:])) > most_bytes:
            first += 1
        return self._page(log, first, lines)

    async def read(self, job_id: str, offset: int, limit: int) -> LogTail | None:
        """Return complete lines from a byte offset."""
        log = self._logs.get(job_id)
        if log is None:
            return None
        whole = b"".join(log.lines)
        data = whole[offset : offset + limit]
        if offset + limit < len(whole):
            end = data.rfind(b"\n") + 1 or whole.index(b"\n", offset) + 1 - offset
            data = whole[offset : offset + end]
        return LogTail(
            output=data.decode("utf-8", "replace"),
            lines=data.count(b"\n"),
            truncated=log.truncated,
            total_bytes=len(whole),
            offset=offset,
            next_offset=offset + len(data),
        )

    async def changed(self, job_id: str, offset: int, timeout: float) -> None:
        """Return when there is more, when there will be none, or in time."""

        def ready() -> bool:
            log = self._logs.get(job_id)
            if log is None:
                return offset > 0
            return log.finished or sum(map(len, log.lines)) > offset

        try:
            async with asyncio.timeout(timeout), self._change:
                await self._change.wait_for(ready)
        except TimeoutError:
            return

    async def delete(self, job_id: str) -> None:
        """Forget the job."""
        self._logs.pop(job_id, None)
        await self._notify()

    async def undrained(self) -> list[str]:
        """Return the ids of the logs that are not finished."""
        return sorted(i for i, log in self._logs.items() if not log.finished)

    async def stored(self) -> list[tuple[str, int]]:
        """Return (job id, bytes)."""
        return sorted((i, sum(map(len, g.lines)) + len(g.raw)) for i, g in self._logs.items())

    async def close(self) -> None:
        """Stop following; what was fed stays."""
        for log in self._logs.values():
            log.following = False

    def _log(self, job_id: str) -> _Log:
        return self._logs.setdefault(names.job_id(job_id), _Log())

    async def _take(self, log: _Log) -> None:
        log.began = True
        end = whole_lines(log.raw, closed=False)
        lines, log.parser = parse(log.raw[:end], log.parser) if end else ([], log.parser)
        log.raw = log.raw[end:]
        self._append(log, lines)
        await self._notify()

    def _append(self, log: _Log, lines: list[bytes]) -> None:
        size = sum(map(len, log.lines))
        for line in lines:
            if log.truncated:
                return
            if size + len(line) + 1 > self._log_bytes:
                log.lines.append(truncation_line(self._log_bytes))
                log.truncated = True
                return
            log.lines.append(line + b"\n")
            size += len(line) + 1

    def _page(self, log: _Log, first: int, count: int) -> LogTail:
        before = sum(map(len, log.lines[:first]))
        data = b"".join(log.lines[first : first + count])
        return LogTail(
            output=data.decode("utf-8", "replace"),
            lines=len(log.lines) - first,
            truncated=log.truncated,
            total_bytes=before + len(data),
            offset=before,
            next_offset=before + len(data),
        )

    async def _notify(self) -> None:
        async with self._change:
            self._change.notify_all()
