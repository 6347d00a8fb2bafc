"""Ends an rsync transfer that passes a quota, while it arrives.

The pre-transfer hook starts one watcher for each transfer, as root and beside the daemon, so that
it needs neither the API nor the database to act. What the transfer's processes have written
(``/proc/PID/io``, ``wchar``, proc(5)) and the inodes that the file system has lost bound what the
tree can have become; only when that bound passes the quota is the tree walked, with its writers
stopped, so that the walk is exact and costs them nothing that they could use. A tree may pass the
quota by 2 %, because a finalize refuses it by then anyway. A transfer whose tree can't be walked in
time, twice, or whose watch fails, is ended as well. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flashpods.adapters.sqlite import transfers
from flashpods.rsync_measure import Count, measure

# No machine of ours takes more; they only say how soon the next look must come.
TOP_BYTES: Final = 8 * 1024**3  # a second
TOP_FILES: Final = 40_000
# Where others free inodes meanwhile, or nobody counts them, the tree's own pace says when to look.
HASTE: Final = 4  # times the pace that the last walk found
FIRST_PACE: Final = 5_000  # a second, before there is one
QUIET_PACE: Final = 250  # of a tree that has not grown
PAUSE_LEAST: Final = 0.004
PAUSE_MOST: Final = 0.5
LOOK_LEAST: Final = 0.02
LOOK_SECONDS: Final = 5.0  # holes make a file larger than what was written
TELL_SECONDS: Final = 1.0
STOP_SECONDS: Final = 0.2
END_SECONDS: Final = 1.0
WALK_SECONDS: Final = 20.0
LATE_WALKS: Final = 2  # in a row, of those that were due: then nobody knows what arrives
TEMPORARY: Final = re.compile(r"\.(.+)\.[A-Za-z0-9]{6}")  # what rsync calls an arriving file

NICENESS: Final = -15  # what it watches must not keep it from the processor

Tell = Callable[[int, int, bool], int | None]
"""Takes (bytes, entries) of the tree and whether this is the last word, for which it waits. Keeps
them and returns the bytes of all other uploads; None while that is under way: call it again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """What one tree, and all trees together, may hold."""

    max_bytes: int
    total_bytes: int
    max_files: int


def over(quota: int) -> int:
    """Return from where on a transfer is ended."""
    return quota + quota // 50


def start(watch: Callable[[], None]) -> Callable[[], None]:
    """Fork a process that calls ``watch`` once the function returned here is called.

    It is never called, or this process dies: the other ends as well.

    Raises:
        OSError: the machine has no room for a process.
    """
    receive, send = os.pipe()
    if os.fork() == 0:
        status = 1
        try:
            os.setsid()
            os.close(send)
            null = os.open(os.devnull, os.O_RDWR)
            for number in range(2):  # rsync reads the hook's output to its end; errors are logged
                os.dup2(null, number)
            if os.read(receive, 1):
                watch()
            status = 0
        finally:
            os._exit(status)  # the parent's cleanup is not ours
    os.close(receive)
    return lambda: _go(send)


def _go(send: int) -> None:
    os.write(send, b"g")
    os.close(send)


def family(pid: int) -> list[int]:
    """Return a process and its descendants that exist now, but not the caller and its own.

    The watcher is a child of the hook, and that is one of the daemon's until it has exited: who
    would stop the whole family in that moment would stop itself, and the transfer for ever.
    """
    found, me = [pid], os.getpid()
    for one in found:
        with contextlib.suppress(OSError, ValueError):
            children = Path(f"/proc/{one}/task/{one}/children").read_text().split()
            found += [child for child in map(int, children) if child != me]
    return found


def written(pid: int) -> int:
    """Return the bytes that a process has handed to write(2) and its like; 0 if it is gone."""
    try:
        for line in Path(f"/proc/{pid}/io").read_text().splitlines():
            if line.startswith("wchar:"):
                return int(line.split()[1])
    except OSError:
        pass
    return 0


def inodes(path: Path) -> int:
    """Return the inodes in use on a file system; 0 where it does not count them."""
    with contextlib.suppress(OSError):
        found = os.statvfs(path)
        return found.f_files - found.f_ffree
    return 0


@contextlib.contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    """Stop processes for the length of the block, and no longer whatever becomes of this one.

    A child of ours waits for the block's end or for our death, and lets them go on.
    """
    handles: list[int] = []
    for pid in pids:
        with contextlib.suppress(OSError):
            handles.append(os.pidfd_open(pid))
    receive, send = os.pipe()
    waker = os.fork()
    if waker == 0:
        try:
            os.close(send)
            os.read(receive, 1)
            _signal(handles, signal.SIGCONT)
        finally:
            os._exit(0)
    os.close(receive)
    try:
        _signal(handles, signal.SIGSTOP)
        end = time.monotonic() + STOP_SECONDS  # a write that has begun ends first
        while any(map(_runs, pids)) and time.monotonic() < end:
            time.sleep(0.001)
        yield
    finally:
        os.close(send)
        os.waitpid(waker, 0)
        for handle in handles:
            os.close(handle)


def _runs(pid: int) -> bool:
    fields = transfers.stat_fields(pid)
    return fields is not None and fields[0] not in "TtZXx"


def _signal(handles: list[int], number: signal.Signals) -> None:
    for handle in handles:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, number)


class Watch:
    """One transfer, and what is known of its tree."""

    def __init__(self, tree: Path, writer: tuple[int, int], quota: Quota, tell: Tell) -> None:
        """Take the process that receives, with its start (``transfers.start_ticks``)."""
        self._tree = tree
        self._writer = writer
        self._quota = quota
        self._tell = tell
        self._most_bytes = over(quota.max_bytes)
        self._most_files = over(quota.max_files)
        self._wrote: dict[int, int] = {}
        self._size = self._files = 0
        self._wrote_then = self._inodes_then = 0
        self._walked = self._told = 0.0
        self._told_size = 0
        self._asked = False
        self._walk_took = 0.0
        self._late = 0  # walks in a row that were not in time
        self._pace = float(FIRST_PACE)  # entries a second

    def run(self) -> None:
        """Watch until the transfer has ended, or end it; a watch that fails ends it too."""
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
        try:
            self._watch()
        except BaseException as e:
            self._outlast(0.0)
            self._log(f"its watch failed: {type(e).__name__}: {e}")
            raise

    def _watch(self) -> None:
        self._walk()
        self._late = 0  # nobody was stopped for that one
        self._inform()
        while transfers.alive(*self._writer):
            size, files = self._bounds()
            if self._must_walk(size, files):
                with stopped(family(self._writer[0])):
                    self._walk()
                    if self._over:
                        self._end()  # what is stopped acts on it when it goes on
                if self._over:
                    self._finish()
                    return
                size, files = self._bounds()
            if self._to_tell(size):
                self._inform()
            time.sleep(self._pause(size, files))

    @property
    def _over(self) -> bool:
        return (
            self._size > self._most_bytes
            or self._files > self._most_files
            or self._late >= LATE_WALKS
        )

    def _bounds(self) -> tuple[int, int]:
        """Return what the tree's bytes and entries can be by now."""
        for pid in family(self._writer[0]):
            self._wrote[pid] = max(self._wrote.get(pid, 0), written(pid))
        size = self._size + sum(self._wrote.values()) - self._wrote_then
        lost = inodes(self._tree.parent) - self._inodes_then
        return size, self._files + max(0, lost)

    def _must_walk(self, size: int, files: int) -> bool:
        since = time.monotonic() - self._walked
        likely = (self._most_files - self._files) / (HASTE * max(self._pace, QUIET_PACE))
        rest = 5 * self._walk_took if self._pace < QUIET_PACE else 0.0
        return (
            size > self._most_bytes
            or files > self._most_files
            or since > LOOK_SECONDS + 20 * self._walk_took
            or since > max(likely, LOOK_LEAST, rest)
        )

    def _walk(self) -> None:
        self._bounds()
        began = time.monotonic()
        found = measure(
            self._tree,
            seconds=WALK_SECONDS,
            most_bytes=2 * self._most_bytes,
            most_files=self._most_files,
        )
        ran, self._walked = began - self._walked, time.monotonic()
        self._walk_took = self._walked - began
        if not found.in_time:
            self._take_part(found)
            return
        self._late = 0
        if ran < began:  # not the first walk
            self._pace = max(0, found.entries - self._files) / max(ran, PAUSE_LEAST)
        self._size, self._files = found.bytes - self._replaced(), found.entries
        self._wrote_then = sum(self._wrote.values())
        self._inodes_then = inodes(self._tree.parent)

    def _take_part(self, found: Count) -> None:
        """Keep what a walk that was not in time has seen, and the marks of the last that was.

        Once the transfer is ended for it, the tree counts as what it can have become, as far as it
        matters for a quota, because nobody knows better.
        """
        self._late += 1
        size, files = self._size, self._files
        if self._late >= LATE_WALKS:
            size, files = map(min, self._bounds(), (self._most_bytes + 1, self._most_files + 1))
        self._size = max(size, found.bytes - self._replaced())
        self._files = max(files, found.entries)

    def _replaced(self) -> int:
        """Return the bytes that the arriving file will free when it takes an old one's place."""
        freed = 0
        for pid in family(self._writer[0]):
            with contextlib.suppress(OSError):
                for link in Path(f"/proc/{pid}/fd").iterdir():
                    new = Path(os.readlink(link))  # noqa: PTH115 - a socket's name is no path
                    named = TEMPORARY.fullmatch(new.name)
                    if named and new.is_relative_to(self._tree):
                        old = new.with_name(named[1])
                        freed += min(new.lstat().st_size, old.lstat().st_size)
        return freed

    def _pause(self, size: int, files: int) -> float:
        soonest = min((self._most_bytes - size) / TOP_BYTES, (self._most_files - files) / TOP_FILES)
        near = (self._most_files - files) / (HASTE * max(self._pace, QUIET_PACE))
        return min(max(min(soonest, near), PAUSE_LEAST), PAUSE_MOST)

    def _to_tell(self, size: int) -> bool:
        grown = size - self._told_size > self._quota.total_bytes // 200
        return self._asked or grown or time.monotonic() > self._told + TELL_SECONDS

    def _inform(self) -> None:
        """Say how far the tree has come; the others' bytes bound what is left to this one."""
        quota = self._quota
        if not self._asked:
            self._told = time.monotonic()
            self._told_size, _ = self._bounds()
        size = min(self._told_size, quota.max_bytes)
        others = self._tell(size, min(self._files, quota.max_files), False)
        self._asked = others is None
        if others is not None:
            left = max(0, quota.total_bytes - others)
            self._most_bytes = min(over(quota.max_bytes), left + quota.total_bytes // 100)

    def _end(self) -> None:
        # rsync tells its client, and deletes what is half; but it acts on SIGTERM at its next turn
        # to the network, before which it makes all directories and links of a directory.
        number = signal.SIGTERM if self._files <= self._most_files else signal.SIGKILL
        self._send(number)

    def _finish(self) -> None:
        self._outlast(time.monotonic() + END_SECONDS)
        if self._late >= LATE_WALKS:
            self._log(f"its tree could not be walked in {WALK_SECONDS:g} s")
        self._tell(self._size, self._files, True)

    def _outlast(self, until: float) -> None:
        """Wait for the end of what writes; kill what is left of it from ``until`` on."""
        while transfers.alive(*self._writer):
            if time.monotonic() > until:
                self._send(signal.SIGKILL)
            time.sleep(PAUSE_LEAST)

    def _send(self, number: signal.Signals) -> None:
        for pid in reversed(family(self._writer[0])):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _log(self, why: str) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.write(
                f"flashpods-rsync-hook: the push to {self._tree.name} was ended: {why}\n"
            )
