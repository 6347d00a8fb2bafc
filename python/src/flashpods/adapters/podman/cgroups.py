"""What the kernel holds a container to, read from its cgroup (kernel docs: cgroup-v2.rst)."""

from __future__ import annotations

import contextlib
import math
import os
import time
from pathlib import Path
from typing import Final

from flashpods.ports import Limits

CGROUPS: Final = Path("/sys/fs/cgroup")
PROC: Final = Path("/proc")

EMPTY_SECONDS, EMPTY_LOOK = 2.0, 0.02
OCI_RUNTIMES = ("crun", "runc", "youki")  # as they name the process before they exec


def cgroup_of(pid: int, *, proc: Path = PROC) -> str | None:
    """Return the path of the process's v2 cgroup; None if the process is not to be seen."""
    try:
        lines = (proc / str(pid) / "cgroup").read_text().splitlines()
    except OSError:
        return None
    return next((line[3:] for line in lines if line.startswith("0::")), None)


def belongs(pid: int, container_id: str, *, proc: Path = PROC) -> bool:
    """Whether the process is in the container's cgroup, and so is not a reused pid."""
    return container_id in (cgroup_of(pid, proc=proc) or "")


def read_limits(
    path: str, container_id: str, *, root: Path = CGROUPS, proc: Path = PROC
) -> Limits | None:
    """Read the limits of the container's own cgroup.

    Runtimes set them on the directory that bears the container's id or on one inside it, so the
    tightest of those counts; what is above belongs to others. CPUs are rounded up and swap is
    added to memory, so that whoever compares with what was asked sees too much as too much.

    Returns:
        The limits, or None if one of the three does not hold.
    """
    named = Path(path.lstrip("/"))
    own = [d for d in (named, *named.parents) if container_id in d.as_posix()]
    cpus = [c for d in own if (c := _cpus(root / d)) is not None]
    memory = [m for d in own if (m := _memory(root / d, proc)) is not None]
    pids = [p for d in own if (p := _number(root / d / "pids.max")) is not None]
    if not (cpus and memory and pids):
        return None
    return Limits(cpus=min(cpus), memory_bytes=min(memory), pids=min(pids))


def controllers_below(parent: str, *, root: Path = CGROUPS) -> frozenset[str]:
    """Return the controllers that children of ``parent`` (or of its nearest ancestor) may have."""
    named = Path(parent.lstrip("/"))
    for directory in (named, *named.parents):
        with contextlib.suppress(OSError):
            return frozenset((root / directory / "cgroup.controllers").read_text().split())
    return frozenset()


def children(parent: str, *, root: Path = CGROUPS) -> list[str]:
    """Return the names of the cgroups below ``parent``; none if it does not exist."""
    with contextlib.suppress(FileNotFoundError):
        return [p.name for p in (root / parent.lstrip("/")).iterdir() if p.is_dir()]
    return []


def remove_parent(parent: str, *, root: Path = CGROUPS) -> bool:
    """Remove the cgroup that was made for one container; return whether it is gone.

    A failed start, or a lost conmon, leaves the container's own cgroup in it. What still runs there
    is killed. The kernel refuses to remove one that holds a process, and those that were just
    killed hold it a little longer: they get :data:`EMPTY_SECONDS`. Blocks that long at most.
    """
    top = root / parent.lstrip("/")
    end = time.monotonic() + EMPTY_SECONDS
    _kill_all(top)
    while top.exists():
        for directory, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):
                Path(directory).rmdir()
        if time.monotonic() > end:
            return not top.exists()
        if top.exists():
            time.sleep(EMPTY_LOOK)
    return True


def _kill_all(top: Path) -> None:
    """SIGKILL all below a cgroup; a kernel before 5.14 has no such file."""
    with contextlib.suppress(OSError):
        descriptor = os.open(top / "cgroup.kill", os.O_WRONLY)
        try:
            os.write(descriptor, b"1")
        finally:
            os.close(descriptor)


def first_process(path: str, *, root: Path = CGROUPS, proc: Path = PROC) -> int | None:
    """Return the pid of the process that is number 1 in the container whose cgroup this is.

    That is told by NSpid, proc(5). None if there is none, or it is not to be seen from here.
    """
    with contextlib.suppress(OSError):  # it is going, or the process is
        for file in (root / path.lstrip("/")).rglob("cgroup.procs"):
            for pid in file.read_text().split():
                status = (proc / pid / "status").read_text(errors="replace")
                numbers = status.partition("NSpid:")[2].partition("\n")[0].split()
                if numbers[-1:] == ["1"]:
                    return int(pid)
    return None


def open_process(pid: int, container_id: str, *, proc: Path = PROC) -> int | None:
    """Return a pidfd of the container's first process; None if it is not to be seen from here.

    The pid is checked after it is held, so that a reused one is never taken for it.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return None
    if belongs(pid, container_id, proc=proc):
        return descriptor
    os.close(descriptor)
    return None


def waits_for_start(pid: int, container_id: str, *, proc: Path = PROC) -> bool | None:
    """Whether a container's first process is still the OCI runtime, which waits for "start".

    Returns:
        None if the process is dead or not to be seen from here.
    """
    try:
        name = (proc / str(pid) / "comm").read_text(errors="replace")
    except OSError:
        return None
    # The name first, then whose it is: a reused pid is never taken for it.
    return name.startswith(OCI_RUNTIMES) if belongs(pid, container_id, proc=proc) else None


def emptied(parent: str, *, root: Path = CGROUPS) -> bool:
    """Whether the cgroup is there and holds no process, itself or below."""
    try:
        events = (root / parent.lstrip("/") / "cgroup.events").read_text()
    except OSError:
        return False
    return "populated 0" in events.splitlines()


def all_wait(parent: str, *, root: Path = CGROUPS, proc: Path = PROC) -> bool:
    """Whether every process below the cgroup is the OCI runtime still, or there is none."""
    for file in (root / parent.lstrip("/")).rglob("cgroup.procs"):
        with contextlib.suppress(OSError):  # it is going, or the process is
            for pid in file.read_text().split():
                if not (proc / pid / "comm").read_text(errors="replace").startswith(OCI_RUNTIMES):
                    return False
    return True


def _number(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _memory(directory: Path, proc: Path) -> int | None:
    """Return memory and swap; None if either is unlimited."""
    memory = _number(directory / "memory.max")
    if memory is None:
        return None
    if (directory / "memory.swap.max").exists():
        swap = _number(directory / "memory.swap.max")
        return None if swap is None else memory + swap
    return None if _has_swap(proc) else memory


def _has_swap(proc: Path) -> bool:
    """Whether the host swaps at all: a kernel that does not account swap has no swap.max."""
    try:
        return len((proc / "swaps").read_text().splitlines()) > 1
    except OSError:
        return True


def _cpus(directory: Path) -> int | None:
    try:
        quota, period = (directory / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else math.ceil(int(quota) / int(period))
