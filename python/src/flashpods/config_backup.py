"""The section ``backup``: where the copies of the database go, and how many are kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from flashpods.config_base import Seconds, Section


class Backup(Section):
    """What ``flashpods-admin backup`` does."""

    directory: Path = Path("/var/backups/flashpods")
    daily: int = Field(7, ge=1, le=366)  # days that keep their copy
    weekly: int = Field(4, ge=0, le=520)  # weeks that keep the newest of theirs
    artifacts: bool = False  # also the collected artifacts, as files-YYYYMMDD.tar.zst
    logs: bool = False  # likewise the jobs' logs
    compression: int = Field(3, ge=1, le=19)  # zstd's level
    deadline_seconds: Seconds = 3600  # of the copy and its check
    # A file that who carries the backups elsewhere touches when that is done; its age is watched.
    elsewhere: Path | None = None


def backup_contradictions(backup: Backup, trees: dict[str, Path]) -> Iterator[str]:
    """Yield what each key by itself allows and all together do not.

    ``trees`` are the other directories by the name of their setting: what cleans them would take
    a copy for a leftover.
    """
    directory = backup.directory
    if not directory.is_absolute() or ".." in directory.parts:
        yield f"backup.directory is {directory}: must be absolute, without '..'"
    if (file := backup.elsewhere) and (not file.is_absolute() or ".." in file.parts):
        yield f"backup.elsewhere is {file}: must be absolute, without '..'"
    for key, path in trees.items():
        if path == directory or path in directory.parents or directory in path.parents:
            yield (
                f"backup.directory {directory} and {key} {path} are one in the other: "
                f"give each its own directory"
            )
