"""How a long-lived process of ours asks the C library for memory."""

from __future__ import annotations

import contextlib
import ctypes
from typing import Final

# malloc.h; mallopt(3).
M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
M_ARENA_MAX: Final = -8

ARENAS: Final = 2
# Mapped when taken, given back when freed; at 4 MiB the API grew by 7 MiB in half an hour's soak.
LARGE_BYTES: Final = 256 * 1024
# What passes through is read in pieces below that, an eighth included that a copy has: mapped and
# zeroed anew for each, they cost a download two thirds of its speed (./dev bench).
PIECE_BYTES: Final = 224 * 1024
SPARE_BYTES: Final = 4 * 1024**2  # free at the heap's end, kept for the next pieces


def keep_small() -> None:
    """Have memory that threads have freed used again by others, or given back.

    By itself glibc makes eight arenas a processor, none of which the others can use, and takes
    buffers of up to 32 MiB from them once one of that size was freed: a process whose threads read
    logs and databases grows for hours, though it holds no more than in its first minute. Called
    before there are threads; without glibc it does nothing.
    """
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_ARENA_MAX, ARENAS)
        mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
        mallopt(M_TRIM_THRESHOLD, SPARE_BYTES)
