"""How much of one kind, bytes or entries, a tree may hold by now that others write to.

A walk says what it holds. From then on what the file system has lost bounds what has come to it,
and how fast the tree grew says how soon that could have happened unseen. Standard library only.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

HASTE: Final = 4  # times the pace that the last walk found


class Meter:
    """What a tree holds of one kind; ``most`` is the last that it may."""

    def __init__(
        self,
        used: Callable[[os.statvfs_result], int],
        *,
        most: int,
        top: int,
        first_pace: int,
        quiet_pace: int,
    ) -> None:
        """Begin with an empty tree.

        Args:
            used: what a file system has in use, of this kind.
            most: of the tree.
            top: no machine of ours takes more in a second.
            first_pace: a second, before any is known.
            quiet_pace: a second, of a tree that does not grow; it may begin to.
        """
        self._used = used
        self._top = top
        self._quiet = quiet_pace
        self._pace = float(first_pace)
        self._seen: int | None = None
        self._lost = 0
        self.most = most
        self.held = 0

    def look(self, file_system: os.statvfs_result) -> None:
        """Count what was lost since the last look; what others free meanwhile hides none of it."""
        now = self._used(file_system)
        if self._seen is not None:
            self._lost += max(0, now - self._seen)
        self._seen = now

    def count(self, held: int, seconds: float | None) -> None:
        """Take what a walk found, ``seconds`` after the one before; None: it was the first."""
        if seconds is not None:
            self._pace = max(0, held - self.held) / seconds
        self.held, self._lost = held, 0

    @property
    def bound(self) -> int:
        """What the tree can hold, as of the last look."""
        return self.held + self._lost

    @property
    def over(self) -> bool:
        """Whether a walk found too much."""
        return self.held > self.most

    @property
    def quiet(self) -> bool:
        """Whether the tree has hardly grown of late."""
        return self._pace < self._quiet

    @property
    def likely(self) -> float:
        """Seconds after a walk in which a tree that makes haste is full."""
        return (self.most - self.held) / (HASTE * max(self._pace, self._quiet))

    @property
    def soonest(self) -> float:
        """Seconds from the last look in which any machine could have filled it."""
        return (self.most - self.bound) / self._top


def blocks(file_system: os.statvfs_result) -> int:
    """Return the bytes in use; 0 where there is no limit to them."""
    return (file_system.f_blocks - file_system.f_bfree) * file_system.f_frsize


def inodes(file_system: os.statvfs_result) -> int:
    """Return the inodes in use; 0 where they are not counted."""
    return file_system.f_files - file_system.f_ffree
