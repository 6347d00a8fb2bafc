"""Ends an rsync transfer that passes a quota, while it arrives.

The pre-transfer hook starts one watcher for each transfer, as root and beside the daemon, so that
it needs neither the API nor the database to act. What the file system has lost since the last walk
bounds what the tree can have become (:mod:`flashpods.rsync_meter`); only when that bound passes the
quota, or the tree could have reached it at its own pace, is it walked, with its writers stopped, so
that the walk is exact and costs them nothing that they could use. What the kernel knows of the
writers, such as ``/proc/PID/io``, is not for a root without CAP_SYS_PTRACE to see, which the
daemon's unit is (docs/decisions/0012).

A tree may pass the quota by 0.5 %, because a finalize refuses it by then anyway, and by what comes
within one look, some milliseconds near the quota. That holds where a file system counts what is
written at once (ext4, xfs, tmpfs with a size). What it does not see at once (btrfs, ZFS, a hole,
what others free within the same look) is found when the tree could be full at four times its last
pace, or 64 MB/s, and after five seconds. All uploads together may pass their total by some per
cent: each watcher knows the others' trees as their watchers last told, which they do more often
near it. A transfer whose tree can't be walked in time, twice, or whose watch fails, is ended as
well. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flashpods.adapters.sqlite import transfers
from flashpods.rsync_measure import measure
from flashpods.rsync_meter import Meter, blocks, inodes

# No machine of ours takes more; they only say how soon the next look must come.
TOP_BYTES: Final = 8 * 1024**3  # a second
TOP_FILES: Final = 40_000
# Before the first walks, and of a tree that has not grown; a second, times HASTE.
FIRST_BYTES: Final = 128 * 1024**2
FIRST_FILES: Final = 5_000
QUIET_BYTES: Final = 64 * 1024**2
QUIET_FILES: Final = 250
PAUSE_LEAST: Final = 0.002
PAUSE_MOST: Final = 0.5
LOOK_LEAST: Final = 0.02
LOOK_SECONDS: Final = 5.0  # whatever the file system has lost
TELL_SECONDS: Final = 1.0
STOP_SECONDS: Final = 0.2
END_SECONDS: Final = 1.0
WALK_SECONDS: Final = 20.0
LATE_WALKS: Final = 2  # in a row, of those that were due: then nobody knows what arrives

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
    """Return from where on a transfer is ended.

    Above the quota, so that a tree just below it isn't walked for whatever else the file system
    loses.
    """
    return quota + quota // 200


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
        self._bytes = Meter(
            blocks,
            most=over(quota.max_bytes),
            top=TOP_BYTES,
            first_pace=FIRST_BYTES,
            quiet_pace=QUIET_BYTES,
        )
        self._files = Meter(
            inodes,
            most=over(quota.max_files),
            top=TOP_FILES,
            first_pace=FIRST_FILES,
            quiet_pace=QUIET_FILES,
        )
        self._meters = (self._bytes, self._files)
        self._walked = 0.0
        self._walk_took = 0.0
        self._late = 0  # walks in a row that were not in time
        self._told = 0.0
        self._told_bytes = 0
        self._asked = False
        self._others = 0  # bytes of all other uploads, as they were told

    def run(self) -> None:
        """Watch until the transfer has ended, or end it; a watch that fails ends it too."""
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
            self._look()
            if self._must_walk():
                began = time.monotonic()
                with stopped(family(self._writer[0])):
                    self._walk()
                    if self._over:
                        # Told first: a finalize must not find it ended and nothing held against it.
                        self._tell(self._bytes.held, self._files.held, True)
                        self._end()  # what is stopped acts on it when it goes on
                if self._over:
                    self._finish()
                    return
                self._walk_took = time.monotonic() - began
                self._look()
            if self._to_tell():
                self._inform()
            time.sleep(self._pause())

    @property
    def _over(self) -> bool:
        return self._late >= LATE_WALKS or any(meter.over for meter in self._meters)

    def _look(self) -> None:
        with contextlib.suppress(OSError):
            file_system = os.statvfs(self._tree.parent)
            for meter in self._meters:
                meter.look(file_system)

    def _must_walk(self) -> bool:
        since = time.monotonic() - self._walked
        likely = min(meter.likely for meter in self._meters)
        rest = 5 * self._walk_took if all(meter.quiet for meter in self._meters) else 0.0
        return (
            any(meter.bound > meter.most for meter in self._meters)
            or since > LOOK_SECONDS + 20 * self._walk_took
            or since > max(likely, LOOK_LEAST, rest)
            or (self._crowded and self._untold and since > max(10 * self._walk_took, LOOK_LEAST))
        )

    @property
    def _crowded(self) -> bool:
        """Whether all uploads together may be so many that each must say soon what it has."""
        quota = self._quota
        return self._others + self._bytes.bound > quota.total_bytes - quota.max_bytes

    @property
    def _untold(self) -> bool:
        return self._bytes.bound - self._told_bytes > self._quota.total_bytes // 200

    def _walk(self) -> None:
        self._look()
        began = time.monotonic()
        found = measure(
            self._tree,
            seconds=WALK_SECONDS,
            most_bytes=2 * self._bytes.most,
            most_files=self._files.most,
        )
        before, self._walked = self._walked, time.monotonic()
        if before:  # nobody wrote meanwhile but others; the first walk stops nobody
            self._look()
        size = found.bytes - found.replaced
        if found.in_time:
            self._late = 0
            ran = max(began - before, PAUSE_LEAST) if before else None
            self._bytes.count(size, ran)
            self._files.count(found.entries, ran)
        else:
            self._take_part(size, found.entries)

    def _take_part(self, size: int, files: int) -> None:
        """Keep what a walk that was not in time has seen, and what is lost since one that was.

        Once the transfer is ended for it, the tree counts as what it can have become, as far as it
        matters for a quota, because nobody knows better.
        """
        self._late += 1
        for meter, found in ((self._bytes, size), (self._files, files)):
            held = min(meter.bound, meter.most + 1) if self._late >= LATE_WALKS else meter.held
            meter.held = max(held, found)

    def _pause(self) -> float:
        soonest = min(min(meter.soonest, meter.likely) for meter in self._meters)
        return min(max(soonest, PAUSE_LEAST), LOOK_LEAST if self._crowded else PAUSE_MOST)

    def _to_tell(self) -> bool:
        grown = self._bytes.held - self._told_bytes > self._quota.total_bytes // 200
        return self._asked or grown or time.monotonic() > self._told + TELL_SECONDS

    def _inform(self) -> None:
        """Say how far the tree has come; the others' bytes bound what is left to this one.

        It says what a walk has found: the bound has what all others write as well.
        """
        quota = self._quota
        if not self._asked:
            self._told = time.monotonic()
            self._told_bytes = self._bytes.held
        size = min(self._told_bytes, quota.max_bytes)
        others = self._tell(size, min(self._files.held, quota.max_files), False)
        self._asked = others is None
        if others is not None:
            self._others = others
            left = max(0, quota.total_bytes - others)
            self._bytes.most = min(over(quota.max_bytes), left + quota.total_bytes // 200)

    def _end(self) -> None:
        # rsync tells its client, and deletes what is half; but it acts on SIGTERM at its next turn
        # to the network, before which it makes all directories and links of a directory.
        number = signal.SIGKILL if self._files.over else signal.SIGTERM
        self._send(number)

    def _finish(self) -> None:
        self._outlast(time.monotonic() + END_SECONDS)
        if self._late >= LATE_WALKS:
            self._log(f"its tree could not be walked in {WALK_SECONDS:g} s")

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
