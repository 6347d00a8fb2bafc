"""How many arenas a process with many threads has."""

from __future__ import annotations

import subprocess
import sys

import pytest

THREADS = """
import ctypes, os, tempfile, threading
from flashpods.allocator import keep_small

if {keep}:
    keep_small()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.fopen.restype = ctypes.c_void_p
all_here = threading.Barrier(8)

def take():
    all_here.wait()
    libc.malloc(ctypes.c_size_t(1000))
    all_here.wait()

threads = [threading.Thread(target=take) for _ in range(8)]
[t.start() for t in threads]
[t.join() for t in threads]
with tempfile.NamedTemporaryFile() as file:
    out = ctypes.c_void_p(libc.fopen(file.name.encode(), b"w"))
    assert libc.malloc_info(0, out) == 0
    libc.fclose(out)
    print(file.read().decode().count("<heap nr="))
"""


@pytest.mark.parametrize("keep", [True, False])
def test_threads_share_two_arenas(keep: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", THREADS.format(keep=keep)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert (int(done.stdout) <= 2) is keep, done.stdout
