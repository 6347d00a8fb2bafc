"""openat2(2): path resolution that the kernel keeps beneath a directory.

The C library has no wrapper for it yet, so it is called by number: 437 on every architecture that
Linux added it to (5.6, after the tables were unified), x86_64 and aarch64 among them.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from typing import Final

__all__ = [
    "RESOLVE_BENEATH",
    "RESOLVE_NO_MAGICLINKS",
    "RESOLVE_NO_SYMLINKS",
    "RESOLVE_NO_XDEV",
    "follow_beneath",
    "open_beneath",
    "openat2",
    "reopen",
]

SYS_OPENAT2: Final = 437

RESOLVE_NO_XDEV: Final = 0x01
RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_BENEATH: Final = 0x08

# EAGAIN: a rename or mount elsewhere raced with "..", so the kernel can't vouch; openat2(2) says
# to try again. A writer who keeps renaming could make us do so for ever.
ATTEMPTS: Final = 64

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _OpenHow(ctypes.Structure):
    """``struct open_how``, version 0."""

    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def openat2(dir_fd: int, path: str | bytes, flags: int, resolve: int) -> int:
    """Open ``path`` relative to ``dir_fd``; the descriptor is close-on-exec.

    Args:
        dir_fd: an open directory (``O_PATH`` is enough).
        path: a relative path.
        flags: ``O_*`` flags; nothing is ever created.
        resolve: ``RESOLVE_*`` flags.

    Raises:
        OSError: as open(2); ``EXDEV`` where the path would leave, ``ELOOP`` where it has a link
            that ``resolve`` forbids, ``EAGAIN`` where a writer keeps racing with us.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, 0, resolve)
    name = os.fsencode(path)
    if b"\0" in name:
        raise OSError(errno.EINVAL, "NUL in path")
    for _ in range(ATTEMPTS):
        fd: int = _libc.syscall(
            ctypes.c_long(SYS_OPENAT2),
            ctypes.c_int(dir_fd),
            ctypes.c_char_p(name),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        if fd >= 0:
            return fd
        code = ctypes.get_errno()
        if code not in {errno.EAGAIN, errno.EINTR}:
            break
    raise OSError(code, os.strerror(code), os.fsdecode(name))


def open_beneath(dir_fd: int, path: str, flags: int) -> int:
    """Open a path beneath ``dir_fd`` that has no link at all, for files of our own making.

    Raises:
        OSError: see :func:`openat2`.
    """
    resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV
    flags |= os.O_NOFOLLOW
    if not flags & os.O_PATH:  # which openat2(2) lets stand alone only
        flags |= os.O_NONBLOCK
    return openat2(dir_fd, path, flags, resolve)


def follow_beneath(dir_fd: int, path: str, flags: int = 0) -> int:
    """Return an ``O_PATH`` descriptor of what ``path`` resolves to, links and all, beneath.

    ``O_PATH`` touches neither a FIFO nor a device; look at the type, then :func:`reopen` it. With
    ``O_NOFOLLOW`` a link at the end is itself the answer.

    Raises:
        OSError: see :func:`openat2`.
    """
    resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV
    return openat2(dir_fd, path, os.O_PATH | flags, resolve)


def reopen(fd: int, flags: int) -> int:
    """Open the very inode behind a descriptor with other flags; no name is resolved.

    What is ours but has no permission bits is given them first (``u+rw``, directories ``u+rwx``).

    Raises:
        OSError: as open(2); ``EACCES`` where the inode is another user's.
    """
    magic = f"/proc/self/fd/{fd}"
    flags |= os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(magic, flags)
    except PermissionError:
        mode = os.fstat(fd).st_mode
        grant = 0o700 if stat.S_ISDIR(mode) else 0o600
        os.chmod(magic, stat.S_IMODE(mode) & 0o777 | grant)  # noqa: PTH101 - a magic link, not a path
        return os.open(magic, flags)
