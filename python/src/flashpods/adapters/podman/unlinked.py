"""Files that a container's processes hold open though they have no name any more.

No walk over a tree finds them, and they fill a disk as well as others.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from flashpods.adapters.podman.cgroups import CGROUPS, PROC, belongs, cgroup_of

BLOCK: Final = 512  # what st_blocks counts, stat(2)
MOST_OPEN: Final = 50_000  # descriptors looked at
MOST_SECONDS: Final = 2.0
# They take memory, which has a limit of its own.
NO_DISK: Final = frozenset({"tmpfs", "proc", "sysfs", "cgroup2", "cgroup", "devpts", "mqueue"})


def unlinked_bytes(
    pid: int, container_id: str, *, cgroups: Path = CGROUPS, proc: Path = PROC
) -> int:
    """Return what such files of a container take on disks; what is not to be seen counts nothing.

    Args:
        pid: the container's first process.
        container_id: its id, by which a reused pid is told.
        cgroups: where the cgroup v2 tree is mounted.
        proc: where processes are to be seen.
    """
    path = cgroup_of(pid, proc=proc)
    if path is None or not belongs(pid, container_id, proc=proc):
        return 0
    end = time.monotonic() + MOST_SECONDS
    disks = _disks(pid, proc)
    held: dict[tuple[int, int], int] = {}
    left = MOST_OPEN
    for process in _processes(cgroups / path.lstrip("/")):
        with contextlib.suppress(OSError), os.scandir(proc / process / "fd") as descriptors:
            for descriptor in descriptors:
                left -= 1
                if left < 0 or time.monotonic() > end:
                    return sum(held.values())
                with contextlib.suppress(OSError):
                    info = descriptor.stat()  # of the file that it is, not of the link
                    if info.st_nlink == 0 and stat.S_ISREG(info.st_mode) and info.st_dev in disks:
                        held[info.st_dev, info.st_ino] = info.st_blocks * BLOCK
    return sum(held.values())


def _processes(cgroup: Path) -> Iterator[str]:
    """Yield the processes of a container, whose own cgroup has the first one's or holds it."""
    for file in (cgroup / "cgroup.procs", *cgroup.rglob("*/cgroup.procs")):
        with contextlib.suppress(OSError):
            yield from file.read_text().split()


def _disks(pid: int, proc: Path) -> frozenset[int]:
    """Return the devices of what is mounted in the container and is no memory (proc(5))."""
    devices = set()
    with contextlib.suppress(OSError):
        for line in (proc / str(pid) / "mountinfo").read_text().splitlines():
            mount, _, kind = line.partition(" - ")
            if kind.split(" ", 1)[0] not in NO_DISK:
                major, minor = mount.split(" ")[2].split(":")
                devices.add(os.makedev(int(major), int(minor)))
    return frozenset(devices)
