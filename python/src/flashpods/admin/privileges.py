"""Acting as the service's user while root, so that nothing root makes is in the service's way."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["as_owner_of", "become_owner_of"]


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


def become_owner_of(path: Path) -> None:
    """Become the user and group that own ``path``, for good, if we are root.

    For what starts processes or is a library's: they go by the real user and by ``HOME``.

    Raises:
        OSError: ``path`` is not there.
    """
    found = path.stat()
    if os.geteuid() != 0 or found.st_uid == 0:
        return
    try:
        home = pwd.getpwuid(found.st_uid).pw_dir
    except KeyError:
        home = str(path.parent)
    os.environ["HOME"] = home
    for variable in ("XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "TMPDIR"):
        os.environ.pop(variable, None)  # root's
    os.chdir("/")
    os.setgroups([found.st_gid])
    os.setresgid(found.st_gid, found.st_gid, found.st_gid)
    os.setresuid(found.st_uid, found.st_uid, found.st_uid)
