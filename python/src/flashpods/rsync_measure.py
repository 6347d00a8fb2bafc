"""What a tree holds that a client pushes to, counted within a time. Standard library only."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Generator
from pathlib import Path
from typing import Final, NamedTuple

from flashpods.adapters.files.descent import descend, enter_if_there

TEMPORARY: Final = re.compile(r"\.(.+)\.[A-Za-z0-9]{6}", re.DOTALL)  # rsync's arriving file


class Count(NamedTuple):
    """What a walk has counted; there is more where it was not in time."""

    bytes: int  # of files and links
    entries: int
    in_time: bool = True
    replaced: int = 0  # bytes that the arriving file frees when it takes an old one's place


_Arriving = tuple[int, int]  # st_ctime_ns of a temporary file, and the bytes that it replaces


def measure(
    tree: Path,
    *,
    seconds: float,
    most_bytes: float = float("inf"),
    most_files: float = float("inf"),
) -> Count:
    """Count a tree, which may be of any depth; absent, it is empty. It stops above a ``most``.

    Works on descriptors and follows no link, so a change meanwhile leads nowhere else. Of the files
    that rsync calls temporary, beside which lies what they are to replace, the one that changed
    last is the one that arrives: a receiver has one at a time, and no client sets that time.

    Raises:
        OSError: such as ``EIO`` or ``EMFILE``; an entry that vanishes is none.
    """
    end = time.monotonic() + seconds
    size = entries = 0
    last: _Arriving = (0, 0)
    root = enter_if_there(None, str(tree))
    if root is None:
        return Count(0, 0)
    in_time = True
    try:
        with contextlib.closing(_found(root)) as found:
            for more, more_bytes, arriving in found:
                entries += more
                size += more_bytes
                if arriving:
                    last = max(last, arriving)
                if size > most_bytes or entries > most_files:
                    break
                if time.monotonic() > end:
                    in_time = False
                    break
    finally:
        os.close(root)
    return Count(size, entries, in_time, last[1])


def _found(root: int) -> Generator[tuple[int, int, _Arriving | None], None, None]:
    """Yield (entries, bytes, …) of each directory as it is entered, none, and of each entry."""
    with contextlib.closing(descend(root, enter_if_there)) as directories:
        for here in directories:
            yield 0, 0, None  # many that are empty take time as well
            with os.scandir(here.fd) as entries:
                for entry in entries:
                    size, arriving = 0, None
                    if entry.is_dir(follow_symlinks=False):
                        here.inner.append(entry.name)
                    else:  # links too: a target may be as long as a page
                        with contextlib.suppress(FileNotFoundError):  # a finalize or a push
                            size = entry.stat(follow_symlinks=False).st_size
                            arriving = _arriving(here.fd, entry)
                    yield 1, size, arriving


def _arriving(directory: int, entry: os.DirEntry[str]) -> _Arriving | None:
    named = entry.name.startswith(".") and TEMPORARY.fullmatch(entry.name)
    if not named:
        return None
    try:
        old = os.stat(named[1], dir_fd=directory, follow_symlinks=False)
    except OSError:
        return None
    new = entry.stat(follow_symlinks=False)
    return new.st_ctime_ns, min(new.st_size, old.st_size)
