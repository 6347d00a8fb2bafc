"""Work on the trees that jobs write to: what they hold, and emptying what is large or deep.

Standard library only. It runs as a program within the user namespace of
:mod:`flashpods.adapters.files.tree_tool`: a job may shut its directories to us, and an image's
belong to subordinate ids. Each line of standard input is a request, each answered by one line,
``{"ok": RESULT}`` or ``{"error": MESSAGE}``:

- ``{"measure": [PATH…], "most": ENTRIES, "seconds": SECONDS}``: ``[[DEVICE, BYTES, ENTRIES,
  WHOLE]…]``, see :func:`measure`; each path has an equal part of the time that is left
- ``{"ease": PATH}``: whether it was emptied, see :func:`ease`
- ``{"empty": PATH}``: true, see :func:`free`

A process is forked for each request, so that what a job piles up is never in ours for longer.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import stat
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, TextIO

from flashpods.adapters.files.descent import DIRECTORY, descend
from flashpods.adapters.files.trees import BATCH, remove, scan

BLOCK: Final = 512  # what st_blocks counts, stat(2)
EASY_ENTRIES, EASY_DEPTH = 10_000, 100  # what the engine deletes without harm to others

_FILE = os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class Tally:
    """What was counted so far, each file once however many names it has."""

    most: int
    deepest: int = sys.maxsize
    until: float = math.inf  # on the monotonic clock
    bytes: int = 0
    entries: int = 0
    depth: int = 0
    late: bool = False  # its time was over before all was counted
    _twins: set[tuple[int, int]] = field(default_factory=set)

    @property
    def full(self) -> bool:
        """Whether there is more, or it is deeper, than the caller wants to hear of."""
        return self.entries > self.most or self.depth > self.deepest

    @property
    def over(self) -> bool:
        """Whether to count no further."""
        return self.late or self.full

    def take(self, directory: int) -> list[str]:
        """Count what is in an open directory; return the names of its directories."""
        inner = []
        with os.scandir(directory) as entries:
            for entry in entries:
                self.late = time.monotonic() > self.until
                if self.late:
                    return []
                self.entries += 1
                if self.full:
                    return []
                with contextlib.suppress(FileNotFoundError):  # the job is at work
                    info = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(info.st_mode):
                        inner.append(entry.name)
                    if self._new(info):
                        self.bytes += info.st_blocks * BLOCK
        return inner

    def _new(self, info: os.stat_result) -> bool:
        if stat.S_ISDIR(info.st_mode) or info.st_nlink < 2:
            return True
        key = (info.st_dev, info.st_ino)
        if key in self._twins:
            return False
        self._twins.add(key)
        return True


class _Cut(Tally):
    """Cuts each file to nothing on the way."""

    def take(self, directory: int) -> list[str]:
        """Cut what files are in an open directory; return the names of its directories."""
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.is_file(follow_symlinks=False):
                    with contextlib.suppress(OSError):  # its deletion tells
                        _cut(directory, entry.name)
        return Tally.take(self, directory)


def _cut(directory: int, name: str) -> None:
    fd = os.open(name, _FILE, dir_fd=directory)
    try:
        os.ftruncate(fd, 0)
    finally:
        os.close(fd)


def measure(path: str, most: int, seconds: float = math.inf) -> tuple[int, int, int, bool]:
    """Return (device, allocated bytes, entries, whether that is all) of a tree; absent is empty.

    Depth costs nothing (:mod:`flashpods.adapters.files.descent`), and a directory that is moved
    away meanwhile is found again from the top or left out. It stops above ``most`` entries, and
    after ``seconds`` with what it has counted by then.

    Raises:
        OSError: the tree is not ours to read.
    """
    try:
        root = os.open(path, DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return 0, 0, 0, True
    try:
        tally = _walked(root, Tally(most, until=time.monotonic() + seconds))
        return os.fstat(root).st_dev, tally.bytes, tally.entries, not tally.late
    finally:
        os.close(root)


def ease(path: str) -> bool:
    """Empty a directory whose tree is deep or large; return whether it was. Absent: it was not.

    The engine deletes a container's layer with a descriptor for each level, so that a deep one
    fails, and each later mount with it; and under the lock of its store, so that a large one keeps
    every other job waiting.

    Raises:
        OSError: something in it can't be deleted; the rest may be gone.
    """
    try:
        root = os.open(path, DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        easy = not _walked(root, Tally(EASY_ENTRIES, EASY_DEPTH)).full
    finally:
        os.close(root)
    return not easy and empty(path)


def free(path: str) -> bool:
    """Empty a directory at once, also where a file system lies over it; see :func:`empty`.

    overlayfs keeps what is deleted below it until it is unmounted, and the engine may have no room
    to do that. What has no length takes no room.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        root = os.open(path, DIRECTORY)
        try:
            _walked(root, _Cut(sys.maxsize))
        finally:
            os.close(root)
    return empty(path)


def empty(path: str) -> bool:
    """Empty a directory; absent, it is. It returns true.

    Raises:
        OSError: something in it can't be deleted; the rest may be gone.
    """
    try:
        root = os.open(path, DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return True
    try:
        while names := [entry.name for entry in scan(root, BATCH)]:
            for name in names:
                remove(root, name)
    finally:
        os.close(root)
    return True


def _walked(root: int, tally: Tally) -> Tally:
    with contextlib.closing(descend(root, _enter)) as directories:
        for here in directories:
            tally.depth = max(tally.depth, here.depth)
            here.inner.extend(tally.take(here.fd))
            if tally.over:
                break
    return tally


def _enter(parent: int, name: str) -> int | None:
    with contextlib.suppress(OSError):  # gone, no directory any more, or not ours to read
        return os.open(name, DIRECTORY, dir_fd=parent)
    return None


def _measured(places: list[str], most: int, seconds: float) -> list[tuple[int, int, int, bool]]:
    """Measure each, with an equal part of the time that those before it left."""
    until = time.monotonic() + seconds
    found = []
    for number, place in enumerate(places):
        part = (until - time.monotonic()) / (len(places) - number)
        found.append(measure(place, most, part))
    return found


def answer(request: str) -> str:
    """Return the answer to one line."""
    try:
        asked = json.loads(request)
        result: object
        if "ease" in asked:
            result = ease(asked["ease"])
        elif "empty" in asked:
            result = free(asked["empty"])
        else:
            result = _measured(asked["measure"], asked["most"], asked["seconds"])
        return json.dumps({"ok": result})
    except OSError as e:
        return json.dumps({"error": e.strerror or type(e).__name__})


def serve(requests: Iterable[str] = sys.stdin, answers: TextIO = sys.stdout) -> int:
    """Answer until the requests end; return the exit code."""
    for request in requests:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                answers.write(answer(request) + "\n")
                answers.flush()
                status = 0
            finally:
                os._exit(status)  # what follows is the parent's
        _, ended = os.waitpid(child, 0)
        if ended:
            answers.write('{"error": "the walk was ended"}\n')
            answers.flush()
    return 0
