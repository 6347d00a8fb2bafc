"""Puts another database in the place of one, so that a crash at any moment loses neither.

A stale ``-wal`` beside a new file would be applied to it, and an old file without its ``-wal``
lacks its last commits; so a mark stands beside them from before the first move to after the last,
and no store opens while it is there. Repeating the swap ends it.
"""

from __future__ import annotations

import os
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Final

from flashpods.adapters.sqlite.copies import CopyError, held_alone, sync

MARK: Final = ".restoring"
BESIDE: Final = ("-wal", "-shm", "-journal", ".boot")


def mark_of(path: Path) -> Path:
    """Return the file that stands there while a swap is at work, or after it was cut short."""
    return path.with_name(path.name + MARK)


def interrupted(path: Path) -> bool:
    """Whether a swap of this database did not come to its end."""
    return mark_of(path).exists()


def swap(path: Path, new: Path, aside: Path) -> None:
    """Put ``new`` in the place of ``path``; what was there goes into the new directory ``aside``.

    Args:
        path: the database; it may be missing, or damaged beyond opening.
        new: a whole database on the same file system, on the disk, not open anywhere.
        aside: a directory that does not exist, on the same file system.

    Raises:
        CopyError: ``in_use``, a process has the database open; nothing was changed.
        OSError: the disk refused; the mark stays, and so no store opens until it was repeated.
    """
    mark = mark_of(path)
    again = mark.exists()
    mark.write_text(f"{aside.name}\n")
    sync(path.parent)
    try:
        with held_alone(path) if path.exists() else nullcontext():
            _swap(path, new, aside)
    except CopyError:
        if not again:
            mark.unlink()
        raise
    mark.unlink()
    sync(path.parent)


def _swap(path: Path, new: Path, aside: Path) -> None:
    aside.mkdir(mode=0o700)
    # The name must never be free: who opened it then would make an empty database of it.
    with suppress(FileNotFoundError):
        os.link(path, aside / path.name)
    for ending in BESIDE:
        with suppress(FileNotFoundError):
            path.with_name(path.name + ending).rename(aside / (path.name + ending))
    sync(aside)
    new.replace(path)
    sync(path.parent)
