"""Two names change places in one step: renameat2(2) with RENAME_EXCHANGE. Standard library only."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Final

_EXCHANGE: Final = 1 << 1

_libc = ctypes.CDLL(None, use_errno=True)


def exchange(parent: int, name: str, other_parent: int, other: str) -> None:
    """Exchange ``name`` in the open directory ``parent`` with ``other`` in ``other_parent``.

    Raises:
        OSError: ``ENOENT``, one of the two is not there; ``EINVAL``, the file system can't;
            ``ENOSYS``, nor can the kernel or the C library.
    """
    call = getattr(_libc, "renameat2", None)
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    first, second = os.fsencode(name), os.fsencode(other)
    if call(parent, first, other_parent, second, ctypes.c_uint(_EXCHANGE)):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), name, None, other)
