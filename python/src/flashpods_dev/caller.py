"""Under sudo: what ./dev leaves in the checkout belongs to the person who called, not to root.

Python's bytecode and the tools' caches lie beside the sources; owned by root they would keep the
person's own tools from writing there, and ``rm -r`` from removing the clone. What is in ``.dev``
belongs to several users by its nature and goes with ``./dev clean``; only the demo's artifacts are
meant to be taken from there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

OURS: Final = frozenset(
    {
        "__pycache__",
        ".mypy_cache",
        ".ruff_cache",
        ".pytest_cache",
        ".hypothesis",
        ".import_linter_cache",
    }
)
ELSEWHERE: Final = frozenset({".dev", ".git"})


def caller(environment: Mapping[str, str]) -> tuple[int, int] | None:
    """Return the (uid, gid) of the person who called sudo; None without sudo, or for root."""
    uid, gid = environment.get("SUDO_UID", ""), environment.get("SUDO_GID", "")
    if not (uid.isdecimal() and gid.isdecimal()) or int(uid) == 0:
        return None
    return int(uid), int(gid)


def left_by_root(checkout: Path) -> list[Path]:
    """Return the topmost directories that ./dev makes outside ``.dev``, and the demo's."""
    found = [path for path in (checkout / ".dev" / "demo",) if path.is_dir()]
    for directory, names, _ in os.walk(checkout):
        found += [Path(directory) / name for name in names if name in OURS]
        names[:] = [name for name in names if name not in OURS | ELSEWHERE]
    return found


def give_back(checkout: Path, environment: Mapping[str, str] = os.environ) -> None:
    """Give root's files among them to the caller; without sudo nothing happens."""
    to = caller(environment)
    if to is None or os.geteuid() != 0:
        return
    for top in left_by_root(checkout):
        for _, _, files, descriptor in os.fwalk(top, follow_symlinks=False):
            with suppress(OSError):  # another ./dev may be at work in the same caches
                for name in files:
                    if os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_uid == 0:
                        os.chown(name, *to, dir_fd=descriptor, follow_symlinks=False)
                if os.fstat(descriptor).st_uid == 0:
                    os.fchown(descriptor, *to)
