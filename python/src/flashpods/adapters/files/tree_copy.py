"""Copying a finalized tree, so that several jobs can each have the files of one push.

Where the file system shares extents (btrfs, XFS) copy_file_range(2) makes references, so a copy
costs entries and no bytes; elsewhere it costs the bytes. Like all of :mod:`trees` it goes from an
open directory to a name in it and never follows a link.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from flashpods.adapters.files.descent import descend
from flashpods.adapters.files.trees import (
    ASIDE,
    Guard,
    discard_at,
    go_on,
    open_dir,
    open_path,
    walk,
)

_CHUNK = 16 << 20
_NO_RANGES = frozenset({errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OLD = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def copy(finalized: str, source: str, target: str, most: int, *, guard: Guard = go_on) -> None:
    """Make ``finalized/target`` a copy of ``finalized/source``: files, links, modes and times.

    It is made out of sight and gets its name when it is whole. A hard link becomes a file of its
    own. Whether the source stayed what it was meanwhile is the caller's to find out.

    Raises:
        FileNotFoundError: there is no source, or it was taken away meanwhile.
        TooLarge: over ``most`` entries.
        OSError: such as ``ENOSPC``; nothing of the copy is left.
    """
    parent = open_path(finalized)
    try:
        root = open_dir(parent, source)
        try:
            discard_at(parent, target, guard)  # of an earlier try
            os.mkdir(ASIDE + target, 0o700, dir_fd=parent)
            try:
                made = open_dir(parent, ASIDE + target)
                try:
                    _copy_tree(root, made, most, guard)
                finally:
                    os.close(made)
                os.rename(ASIDE + target, target, src_dir_fd=parent, dst_dir_fd=parent)
            except BaseException:
                with contextlib.suppress(OSError):
                    discard_at(parent, target, go_on)
                raise
        finally:
            os.close(root)
    finally:
        os.close(parent)


def _copy_tree(source: int, target: int, most: int, guard: Guard) -> None:
    """Walk the source, and beside it what is made of it, which has the same directories."""
    with (
        contextlib.closing(walk(source, most, guard)) as there,
        contextlib.closing(descend(target, open_dir, whole=True)) as here,
    ):
        for (old, entries), new in zip(there, here, strict=True):
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):  # as the walk decides, so they stay abreast
                    os.mkdir(entry.name, 0o700, dir_fd=new.fd)
                    new.inner.append(entry.name)
                    continue
                info = entry.stat(follow_symlinks=False)
                if stat.S_ISLNK(info.st_mode):
                    os.symlink(os.readlink(entry.name, dir_fd=old), entry.name, dir_fd=new.fd)
                    times = (info.st_atime_ns, info.st_mtime_ns)
                    os.utime(entry.name, ns=times, dir_fd=new.fd, follow_symlinks=False)
                elif stat.S_ISREG(info.st_mode):
                    _copy_file(old, new.fd, entry.name, guard)
            _like(new.fd, os.fstat(old))


def _copy_file(old: int, new: int, name: str, guard: Guard) -> None:
    source = os.open(name, _OLD, dir_fd=old)
    try:
        target = os.open(name, _NEW, 0o600, dir_fd=new)
        try:
            _copy_bytes(source, target, guard)
            _like(target, os.fstat(source))
        finally:
            os.close(target)
    finally:
        os.close(source)


def _copy_bytes(source: int, target: int, guard: Guard) -> None:
    try:
        while os.copy_file_range(source, target, _CHUNK):
            guard()
    except OSError as e:
        if e.errno not in _NO_RANGES or os.lseek(source, 0, os.SEEK_CUR):
            raise
        while os.sendfile(target, source, None, _CHUNK):
            guard()


def _like(fd: int, info: os.stat_result) -> None:
    os.fchmod(fd, stat.S_IMODE(info.st_mode))
    os.utime(fd, ns=(info.st_atime_ns, info.st_mtime_ns))
