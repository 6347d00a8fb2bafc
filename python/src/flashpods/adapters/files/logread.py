"""Pages of a log file: its end, its last lines, its lines from an offset. No state, no writing.

Each call costs by what it returns, not by the file. With ``cached=True`` nothing waits for a disk:
what the page cache does not hold raises :class:`NotCached` (preadv2(2), RWF_NOWAIT), so that the
event loop may read by itself what is at hand, and sends the rest to a thread.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flashpods.ports import LogTail

BLOCK: Final = 64 * 1024
_MB: Final = 1024**2
_NOT_NOW: Final = {errno.EAGAIN, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


class NotCached(Exception):
    """The answer needs the disk."""


def truncation_line(log_bytes: int) -> bytes:
    """Return the line that ends a log at its limit. No other line begins with ``[..] [T``."""
    return b"[..] [TRUNCATED - log exceeded %s MB limit]\n" % f"{log_bytes / _MB:g}".encode()


@dataclass(frozen=True, slots=True)
class Tail:
    """The last lines."""

    lines: int


@dataclass(frozen=True, slots=True)
class Range:
    """Complete lines from a byte offset: at most ``limit`` bytes, but one line."""

    offset: int
    limit: int


Want = Tail | Range


def read_log(
    log: Path, want: Want, end: tuple[int, bool] | None, marker: bytes, *, cached: bool
) -> LogTail | None:
    """Read a page; None if there is no log.

    Args:
        log: its path.
        want: which page.
        end: where its complete lines end and whether that is its truncation; found when None.
        marker: :func:`truncation_line`.
        cached: as for :func:`pread`.

    Raises:
        NotCached: with ``cached``.
        OSError: it can't be read.
    """
    try:
        fd = os.open(log, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        size, truncated = end or complete_end(fd, marker, cached=cached)
        if isinstance(want, Tail):
            return tail_page(fd, size, want.lines, truncated=truncated, cached=cached)
        return read_page(fd, want.offset, want.limit, size, truncated=truncated, cached=cached)
    finally:
        os.close(fd)


def pread(fd: int, count: int, offset: int, *, cached: bool) -> bytes:
    """Read exactly ``count`` bytes, fewer only at the file's end.

    Raises:
        NotCached: with ``cached``, if some of them are not in memory.
    """
    if not cached:
        parts = []
        while count > 0 and (part := os.pread(fd, count, offset)):
            parts.append(part)
            count, offset = count - len(part), offset + len(part)
        return b"".join(parts)
    buffer = bytearray(count)
    try:
        got = os.preadv(fd, [buffer], offset, os.RWF_NOWAIT)
    except OSError as e:
        if e.errno in _NOT_NOW:
            raise NotCached from e
        raise
    if got < count and offset + got < os.fstat(fd).st_size:
        raise NotCached
    return bytes(buffer[:got] if got < count else buffer)


def complete_end(fd: int, marker: bytes, *, cached: bool = False) -> tuple[int, bool]:
    """Return where the last complete line of a file ends, and whether it is ``marker``."""
    position = os.fstat(fd).st_size
    step = len(marker)
    while position > 0:
        count = min(step, position)
        block = pread(fd, count, position - count, cached=cached)
        end = block.rfind(b"\n") + 1
        if end:
            return position - count + end, step == len(marker) and block == marker
        position, step = position - count, BLOCK
    return 0, False


def tail_page(fd: int, end: int, lines: int, *, truncated: bool, cached: bool) -> LogTail:
    """Return the last ``lines`` lines before ``end``, reading backwards in blocks."""
    blocks: list[bytes] = []
    position, found = end, 0
    count = min(max(4096, lines * 128), BLOCK)
    while position > 0 and found <= lines:
        count = min(count, position)
        position -= count
        block = pread(fd, count, position, cached=cached)
        found += block.count(b"\n")
        blocks.append(block)
        count = BLOCK
    data = b"".join(reversed(blocks))
    start = 0
    if found > lines:
        start = _after(data, found - lines, lines + 1)
    return LogTail(
        output=data[start:].decode("utf-8", "replace"),
        lines=min(found, lines),
        truncated=truncated,
        total_bytes=end,
        offset=position + start,
        next_offset=end,
    )


def _after(data: bytes, from_front: int, from_back: int) -> int:
    """Return the place after the newline that has these numbers, counting whichever is fewer."""
    at = -1
    if from_front <= from_back:
        for _ in range(from_front):
            at = data.index(b"\n", at + 1)
    else:
        at = len(data)
        for _ in range(from_back):
            at = data.rindex(b"\n", 0, at)
    return at + 1


def read_page(
    fd: int, offset: int, limit: int, end: int, *, truncated: bool, cached: bool
) -> LogTail:
    """Return complete lines from ``offset``: at most ``limit`` bytes, but one line at least."""
    stop = min(offset + limit, end)
    data = pread(fd, max(stop - offset, 0), offset, cached=cached)
    if stop < end:
        cut = data.rfind(b"\n") + 1
        while not cut and offset + len(data) < end:  # one line, longer than the limit
            more = pread(
                fd, min(BLOCK, end - offset - len(data)), offset + len(data), cached=cached
            )
            newline = more.find(b"\n") + 1
            cut = len(data) + newline if newline else 0
            data += more
        data = data[:cut]
    return LogTail(
        output=data.decode("utf-8", "replace"),
        lines=data.count(b"\n"),
        truncated=truncated,
        total_bytes=end,
        offset=offset,
        next_offset=offset + len(data),
    )


def stored(logs: Path, capture: Path) -> list[tuple[str, int]]:
    """Add up the blocks of each job's files, each inode once: (job id, bytes). Raises OSError."""
    sizes: dict[str, dict[int, int]] = {}
    for log in logs.glob("*.log"):
        _add(sizes.setdefault(log.stem, {}), log)
    for directory in capture.glob("[!.]*"):
        found = sizes.setdefault(directory.name, {})
        for file in directory.rglob("*"):
            _add(found, file)
    return sorted((job_id, sum(inodes.values())) for job_id, inodes in sizes.items())


def _add(inodes: dict[int, int], file: Path) -> None:
    with suppress(FileNotFoundError):  # gone since it was listed
        status = file.lstat()
        inodes[status.st_ino] = status.st_blocks * 512
