"""Pages of a log file: its end, its last lines, its lines from an offset. No state, no writing.

Each call costs by what it returns, not by the file. With ``cached=True`` nothing waits for a disk:
what the page cache does not hold raises :class:`NotCached` (preadv2(2), RWF_NOWAIT), so that the
event loop may read by itself what is at hand, and sends the rest to a thread.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from flashpods.adapters.files.ids import is_job_id
from flashpods.ports import LogTail

BLOCK: Final = 64 * 1024
FIRST_BLOCK: Final = 4096  # a tail's first block, at least
LINE_GUESS: Final = 96  # bytes a line, for that; longer ones cost another block
NEWLINE: Final = ord("\n")
_MB: Final = 1024**2
_UNBOUNDED: Final = 1 << 60
_NOT_NOW: Final = {errno.EAGAIN, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


class NotCached(Exception):
    """The answer needs the disk."""


def truncation_line(log_bytes: int) -> bytes:
    """Return the line that ends a log at its limit. No other line begins with ``[..] [T``."""
    return b"[..] [TRUNCATED - log exceeded %s MB limit]\n" % f"{log_bytes / _MB:g}".encode()


End = tuple[int, bool]
"""Where a log's complete lines end, and whether its truncation is the last of them."""


def read_tail(
    fd: int,
    lines: int,
    end: End | None,
    marker: bytes,
    *,
    cached: bool,
    most: int = _UNBOUNDED,
) -> LogTail:
    """Read the last lines that fit in ``most`` bytes, but one at least.

    Args:
        fd: the log, open for reading.
        lines: how many, one at least.
        end: found when None.
        marker: :func:`truncation_line`.
        cached: as for :func:`pread`.
        most: bytes of the answer; little more is read.

    Raises:
        NotCached: with ``cached``; also where one line is longer than ``most``.
        OSError: it can't be read.
    """
    if cached and end is None and (page := _at_once(fd, lines, marker, most)):
        return page
    return _tail(fd, lines, end, marker, cached=cached, most=most)


def read_page(
    fd: int, offset: int, limit: int, end: End | None, marker: bytes, *, cached: bool
) -> LogTail:
    """Read complete lines from ``offset``: at most ``limit`` bytes, but one line at least.

    Arguments and errors as for :func:`read_tail`.
    """
    size, truncated = end or complete_end(fd, marker, cached=cached)
    return _page(fd, offset, limit, size, truncated=truncated, cached=cached)


def pread(fd: int, count: int, offset: int, *, cached: bool) -> bytearray:
    """Read exactly ``count`` bytes, fewer only at the file's end.

    Raises:
        NotCached: with ``cached``, if some of them are not in memory.
    """
    buffer = bytearray(count)
    if not cached:
        got = 0
        while got < count and (part := os.preadv(fd, [memoryview(buffer)[got:]], offset + got)):
            got += part
    else:
        try:
            got = os.preadv(fd, [buffer], offset, os.RWF_NOWAIT)
        except OSError as e:
            if e.errno in _NOT_NOW:
                raise NotCached from e
            raise
        if got < count and offset + got < os.fstat(fd).st_size:
            raise NotCached
    if got < count:
        del buffer[got:]
    return buffer


def complete_end(fd: int, marker: bytes, *, cached: bool = False) -> End:
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


def _at_once(fd: int, lines: int, marker: bytes, most: int) -> LogTail | None:
    """Return the usual tail, whose lines are all in one block in memory; None for any other.

    :func:`_tail` would return the same, a tenth later: this is measured against tail(1).
    """
    size = os.lseek(fd, 0, os.SEEK_END)
    count = lines * LINE_GUESS
    if not FIRST_BLOCK <= count <= min(size, BLOCK):
        return None
    block = bytearray(count)
    try:
        if os.preadv(fd, [block], size - count, os.RWF_NOWAIT) < count or block[-1] != NEWLINE:
            return None
    except OSError:  # the general way tells which it is
        return None
    rest = block.replace(b"\n", b" ", lines)
    if (at := rest.find(b"\n")) < 0:
        return None
    start = _after(block, _few_newlines(rest[at:]))
    if count - start > most:
        return None
    output = str(memoryview(block)[start:], "utf-8", "replace")
    return LogTail(output, lines, block.endswith(marker), size, size - count + start, size)


def _tail(
    fd: int, lines: int, end: End | None, marker: bytes, *, cached: bool, most: int
) -> LogTail:
    """Return the last ``lines`` lines, reading backwards in blocks.

    In general one block holds both the end to be found and the page, so it is read once for both.
    """
    position = end[0] if end else os.lseek(fd, 0, os.SEEK_END)
    count = min(max(FIRST_BLOCK, lines * LINE_GUESS), BLOCK, position)
    position -= count
    block = pread(fd, count, position, cached=cached)
    if end is None:
        complete = block.rfind(b"\n") + 1
        if not complete and position:
            end = complete_end(fd, marker, cached=cached)
            return _tail(fd, lines, end, marker, cached=cached, most=most)
        end = position + complete, block.endswith(marker)
        del block[complete:]
    found = _newlines(block, lines)
    blocks, held = [block], len(block)
    while found <= lines and position:
        if held > most:
            if found > 1:  # a whole line is there: the newest that fit are the answer
                break
            if cached:
                raise NotCached
        count = min(2 * count, BLOCK, position)
        position -= count
        blocks.append(pread(fd, count, position, cached=cached))
        found += blocks[-1].count(b"\n")
        held += count
    data = b"".join(reversed(blocks)) if len(blocks) > 1 else block
    start = _after(data, found - lines) if found > lines else 0
    if len(data) - start > most:
        start = _newest(data, most)
        lines = data.count(b"\n", start)
    blocks.clear()
    return LogTail(
        output=str(memoryview(data)[start:], "utf-8", "replace"),
        lines=min(found, lines),
        truncated=end[1],
        total_bytes=end[0],
        offset=position + start,
        next_offset=end[0],
    )


# bytes.count looks at each byte by itself, replace goes from newline to newline by memchr(3), which
# is five times faster for log lines. So newlines are skipped by overwriting them in a copy.


def _newlines(data: bytearray, about: int) -> int:
    """Count the newlines; fast if they are a few more than ``about``."""
    rest = data.replace(b"\n", b" ", about)
    at = rest.find(b"\n")
    return data.count(b"\n") if at < 0 else about + _few_newlines(rest[at:])


def _few_newlines(data: bytearray) -> int:
    """Count the newlines; by what is left without them, for the same reason."""
    return len(data) - len(data.replace(b"\n", b""))


def _after(data: bytes | bytearray, number: int) -> int:
    """Return the place after the newline of this number, counted from 1."""
    return data.replace(b"\n", b" ", number - 1).index(b"\n") + 1


def _newest(data: bytes | bytearray, most: int) -> int:
    """Return where the last lines begin that fit in ``most`` bytes, or the last line alone."""
    start = data.find(b"\n", len(data) - most - 1) + 1
    return start if start < len(data) else data.rfind(b"\n", 0, len(data) - 1) + 1


def _page(fd: int, offset: int, limit: int, end: int, *, truncated: bool, cached: bool) -> LogTail:
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
    """Add up the blocks of each job's files, each inode once: (job id, bytes). Raises OSError.

    Names that are no job's are left out: they are not ours.
    """
    sizes: dict[str, dict[int, int]] = {}
    for log in logs.glob("*.log"):
        if is_job_id(log.stem):
            _add(sizes.setdefault(log.stem, {}), log)
    for directory in capture.iterdir():
        if not is_job_id(directory.name):
            continue
        found = sizes.setdefault(directory.name, {})
        for file in directory.rglob("*"):
            _add(found, file)
    return sorted((job_id, sum(inodes.values())) for job_id, inodes in sizes.items())


def undrained(capture: Path) -> list[str]:
    """Return the ids of the jobs that have a directory there. Raises OSError."""
    return sorted(path.name for path in capture.iterdir() if is_job_id(path.name))


def _add(inodes: dict[int, int], file: Path) -> None:
    with suppress(FileNotFoundError):  # gone since it was listed
        status = file.lstat()
        inodes[status.st_ino] = status.st_blocks * 512
