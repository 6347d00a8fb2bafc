"""Acting as the service's user while root, so that nothing root makes is in the service's way."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["as_owner_of"]


@contextmanager
def as_owner_of(path: Path) -> Iterator[None]:
    """Act as the user and group that own ``path`` while the block runs; not root: no change.

    The effective ids are the whole process's (all threads', as glibc does it), and come back.

    Raises:
        OSError: ``path`` is not there.
    """
    found = path.stat()
    if os.geteuid() != 0 or found.st_uid == 0:
        yield
        return
    groups, group = os.getgroups(), os.getegid()
    os.setgroups([found.st_gid])
    os.setegid(found.st_gid)
    os.seteuid(found.st_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)
