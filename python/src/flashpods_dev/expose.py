"""Make what the stack's user must read reachable, without touching the machine's modes.

A checkout below ``/root`` (0700), or an interpreter there, can't be reached by the user. In the
private mount namespace an empty file system is put over the closed directory and only the needed
paths are bound back into it.
"""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

from flashpods_dev.machine import StackError


def mode_of(path: Path) -> int:
    """Return a directory's mode."""
    return path.stat().st_mode


def closed_ancestors(
    paths: Iterable[Path], mode: Callable[[Path], int] = mode_of
) -> dict[Path, list[Path]]:
    """Group paths by their topmost ancestor that others may not traverse."""
    groups: dict[Path, list[Path]] = {}
    for path in sorted(set(paths)):
        for ancestor in reversed(path.parents):
            if not mode(ancestor) & stat.S_IXOTH:
                groups.setdefault(ancestor, []).append(path)
                break
    return groups


def without_nested(paths: Iterable[Path]) -> list[Path]:
    """Drop the paths that lie within another of them."""
    kept: list[Path] = []
    for path in sorted(set(paths)):
        if not any(path.is_relative_to(other) for other in kept):
            kept.append(path)
    return kept


# Directories that Debian always has and that neither it nor we need (base-files, hier(7)).
SPARE = (Path("/media"), Path("/mnt"), Path("/srv"), Path("/opt"))


def unused_directory(needed: Iterable[Path]) -> Path:
    """Return a directory with a short name that a mount may hide, as none of the paths is in it.

    Raises:
        StackError: each of them is missing or needed.
    """
    wanted = list(needed)
    for spare in SPARE:
        if spare.is_dir() and not any(path.is_relative_to(spare) for path in wanted):
            return spare
    raise StackError(f"one of {', '.join(map(str, SPARE))} must exist and be free: mkdir /media")


def expose(paths: Iterable[Path]) -> None:
    """Bind the paths into open directories where an ancestor is closed."""
    for ancestor, needed in closed_ancestors(paths).items():
        held = [(path, os.open(path, os.O_PATH)) for path in without_nested(needed)]
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "mode=0755", "flashpods-dev", str(ancestor)], check=True
        )
        for path, descriptor in held:
            source = Path(f"/proc/self/fd/{descriptor}")
            if source.is_dir():
                path.mkdir(parents=True, exist_ok=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
            subprocess.run(
                ["mount", "--no-canonicalize", "--rbind", str(source), str(path)],
                check=True,
                pass_fds=[descriptor],
            )
            os.close(descriptor)
