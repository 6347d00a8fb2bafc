"""The way through a tree that others write to, however deep it is. Standard library only.

It holds two descriptors, goes down by a name and up by ``..``, never follows a link, and proves on
the way up that it came to where it was before: a tree can't lead out of itself.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

Enter = Callable[[int, str], int | None]
"""Opens a directory by its name in an open one, no link. None: it is left out."""

DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
VANISHED: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


def enter_if_there(parent: int | None, name: str) -> int | None:
    """Open a directory; None if it is gone, or no directory any more. Raises OSError.

    Without a ``parent`` the name is a path.
    """
    try:
        return os.open(name, DIRECTORY, dir_fd=parent)
    except OSError as e:
        if e.errno in VANISHED:
            return None
        raise


class Here(NamedTuple):
    """A directory that the walk came to."""

    fd: int  # good until the next step
    depth: int  # 1 at the top
    inner: list[str]  # empty; takes the names of the directories to go into


@dataclass(slots=True)
class _Level:
    """A directory on the way down: its name in its parent, which it is, what is left in it."""

    name: str
    which: tuple[int, int]
    left: list[str] = field(default_factory=list)


class _Way:
    """The levels from the top to where the walk is, and the one descriptor that is there."""

    def __init__(self, root: int, enter: Enter, *, whole: bool) -> None:
        self._root = root
        self._enter = enter
        self._whole = whole
        self.fd = os.dup(root)
        self.levels = [_Level("", _which(self.fd))]

    @property
    def here(self) -> Here:
        """Where the walk is, just entered."""
        return Here(self.fd, len(self.levels), self.levels[-1].left)

    def _move(self, fd: int) -> None:
        os.close(self.fd)
        self.fd = fd

    def down(self) -> bool:
        """Enter the next directory of the lowest level; return whether that could be done."""
        name = self.levels[-1].left.pop()
        deeper = self._enter(self.fd, name)
        if deeper is None:
            return False
        self._move(deeper)
        self.levels.append(_Level(name, _which(deeper)))
        return True

    def up(self) -> None:
        """Return to the level above; levels that are not to be found any more go."""
        self.levels.pop()
        if not self.levels:
            return
        with contextlib.suppress(OSError):
            above = os.open("..", DIRECTORY, dir_fd=self.fd)
            if _which(above) == self.levels[-1].which:
                self._move(above)
                return
            os.close(above)
        self._again()  # what we are in was moved meanwhile, or can't be searched

    def _again(self) -> None:
        self._move(os.dup(self._root))
        for depth, level in enumerate(self.levels[1:], 1):
            deeper = self._enter(self.fd, level.name)
            if deeper is not None:
                self._move(deeper)
                if _which(deeper) == level.which:
                    continue
            if self._whole:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), level.name)
            if deeper is None:
                del self.levels[depth:]
                return
            level.left.clear()  # another one by the same name


def descend(root: int, enter: Enter, *, whole: bool = False) -> Generator[Here, None, None]:
    """Yield each directory of a tree, parents first.

    A directory that was moved away meanwhile is found again from the top or, without ``whole``,
    left out.

    Args:
        root: the open top; it stays open.
        enter: how a directory is opened.
        whole: a directory that was moved is an error.

    Raises:
        OSError: that of ``enter``; with ``whole``, ``ESTALE``.
    """
    way = _Way(root, enter, whole=whole)
    try:
        yield way.here
        while way.levels:
            if not way.levels[-1].left:
                way.up()
            elif way.down():
                yield way.here
    finally:
        os.close(way.fd)


def _which(fd: int) -> tuple[int, int]:
    info = os.fstat(fd)
    return info.st_dev, info.st_ino
