"""What a tree holds that a client pushes to, counted within a time. Standard library only."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple

from flashpods.adapters.files.descent import descend, enter_if_there


class Count(NamedTuple):
    """What a walk has counted; there is more where it was not in time."""

    bytes: int  # of files and links
    entries: int
    in_time: bool = True


def measure(
    tree: Path,
    *,
    seconds: float,
    most_bytes: float = float("inf"),
    most_files: float = float("inf"),
) -> Count:
    """Count a tree, which may be of any depth; absent, it is empty. It stops above a ``most``.

    Works on descriptors and follows no link, so a change meanwhile leads nowhere else.

    Raises:
        OSError: such as ``EIO`` or ``EMFILE``; an entry that vanishes is none.
    """
    end = time.monotonic() + seconds
    size = entries = 0
    root = enter_if_there(None, str(tree))
    if root is None:
        return Count(0, 0)
    try:
        with contextlib.closing(_found(root)) as found:
            for more, more_bytes in found:
                entries += more
                size += more_bytes
                if size > most_bytes or entries > most_files:
                    break
                if time.monotonic() > end:
                    return Count(size, entries, in_time=False)
    finally:
        os.close(root)
    return Count(size, entries)


def _found(root: int) -> Generator[tuple[int, int], None, None]:
    """Yield (entries, bytes) of each directory as it is entered, none, and of each entry."""
    with contextlib.closing(descend(root, enter_if_there)) as directories:
        for here in directories:
            yield 0, 0  # many that are empty take time as well
            with os.scandir(here.fd) as entries:
                for entry in entries:
                    size = 0
                    if entry.is_dir(follow_symlinks=False):
                        here.inner.append(entry.name)
                    else:  # links too: a target may be as long as a page
                        with contextlib.suppress(FileNotFoundError):  # a finalize or a push
                            size = entry.stat(follow_symlinks=False).st_size
                    yield 1, size
