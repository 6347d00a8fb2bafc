"""The cgroup subtree of a run: where it is, and whether limits hold in it.

Every process of a run is below one cgroup v2 directory, so that one write ends them all
(``cgroup.kill``, Linux 5.14) and an empty one can be told and removed. An ordinary machine has the
v2 hierarchy with its controllers at ``/sys/fs/cgroup``; where it has v1 controllers the v2
hierarchy is still there, without controllers, and a private mount shows it.
See Documentation/admin-guide/cgroup-v2.rst in the kernel's tree.
"""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

NEEDED = frozenset({"cpu", "memory", "pids"})


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do about cgroups."""

    private_mount: bool  # mount the v2 hierarchy in our own mount namespace
    to_enable: frozenset[str]  # controllers to switch on for the children of the parent
    limits: bool  # whether limits can hold, if switching them on works
    why: str  # one clause for a person


def plan(filesystem: str, controllers: str, subtree_control: str, *, writable: bool) -> Plan:
    """Decide from what is there.

    Args:
        filesystem: the type of the mount at ``/sys/fs/cgroup`` (``cgroup2``, ``tmpfs``, …).
        controllers: the parent's ``cgroup.controllers``.
        subtree_control: the parent's ``cgroup.subtree_control``.
        writable: whether a directory can be made in the parent.
    """
    nothing: frozenset[str] = frozenset()
    if filesystem != "cgroup2":
        return Plan(True, nothing, False, "the controllers are cgroup v1")
    if not writable:
        return Plan(True, nothing, False, "cgroup v2 is read-only here")
    missing = NEEDED - set(controllers.split())
    if missing:
        return Plan(
            False, nothing, False, f"no cgroup v2 controller for {', '.join(sorted(missing))}"
        )
    return Plan(
        False, NEEDED - set(subtree_control.split()), True, "cgroup v2 with its controllers"
    )


def inspect(parent: Path) -> Plan:
    """Look at the machine and decide; ``parent`` is where the subtree would go."""
    found = subprocess.run(
        ["stat", "--file-system", "--format=%T", str(parent)],
        capture_output=True,
        text=True,
        check=False,
    )
    filesystem = "cgroup2" if found.stdout.strip() in {"cgroup2fs", "cgroup2"} else "other"
    if filesystem != "cgroup2":
        return plan(filesystem, "", "", writable=False)
    probe = parent / "flashpods-dev-probe"
    try:
        probe.mkdir(exist_ok=True)
        probe.rmdir()
    except OSError:
        return plan(filesystem, "", "", writable=False)
    return plan(
        filesystem,
        (parent / "cgroup.controllers").read_text(),
        (parent / "cgroup.subtree_control").read_text(),
        writable=True,
    )


def enable(directory: Path, controllers: frozenset[str]) -> bool:
    """Switch controllers on for the children of a cgroup; False where the kernel refuses."""
    try:
        for name in sorted(controllers):
            (directory / "cgroup.subtree_control").write_text(f"+{name}")
    except OSError:  # a cgroup with processes of its own, as in a container
        return False
    return True


def delegate(directory: Path, uid: int, *, limits: bool) -> None:
    """Make ``directory`` with ``svc`` and ``ctrs`` below it, all owned by the user.

    No process sits in the directory itself, so its controllers may be switched on. Owning
    ``cgroup.procs`` here is what lets the user move a process from ``svc`` to ``ctrs``.

    Raises:
        OSError: the hierarchy refuses.
    """
    for child in (directory, directory / "svc", directory / "ctrs"):
        child.mkdir(exist_ok=True)
    for child in (directory, directory / "ctrs"):
        if limits:
            enable(child, NEEDED)
    for child in (directory, directory / "svc", directory / "ctrs"):
        own(child, uid)


def own(directory: Path, uid: int) -> None:
    """Delegate one cgroup to a user: the directory and the three files that the kernel names."""
    for name in ("", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"):
        os.chown(directory / name, uid, uid)


def clear(directory: Path, *, seconds: float = 60) -> bool:
    """Kill every process below a cgroup and remove it; absent is fine.

    Returns:
        Whether it is gone.
    """
    end = time.monotonic() + seconds
    while directory.exists():
        try:
            (directory / "cgroup.kill").write_text("1")
            for child in sorted(directory.rglob("*"), key=lambda p: -len(p.parts)):
                if child.is_dir():
                    child.rmdir()
            directory.rmdir()
        except OSError:  # dying processes still hold it
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
    return True
