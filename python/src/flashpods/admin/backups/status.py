"""``<backup.directory>/status.json``: how the last backup went, for monitoring.

One JSON object, replaced as a whole, readable by all (0644; the copies are not)::

    {
      "version": 1,
      "finished_at": "2026-11-26T02:00:07.123Z",   when the last run ended, whatever came of it
      "ok": true,                                  whether it made a verified copy
      "error": null,                               else its code, such as "disk_full"
      "message": null,                             and one line for a person
      "duration_seconds": 6.4,
      "file": "db-20261126.db",                    null if it failed
      "size_bytes": 1048576,                       of that file; null if it failed
      "files_size_bytes": null,                    of files-….tar.zst, where that is asked for
      "schema": 1,                                 migrations in it
      "jobs": 4711,                                rows in it
      "warnings": [],                              what did not spoil it: an old copy left unpacked
      "last_success_at": "2026-11-26T02:00:07.123Z",   null: never; its age is what alerts look at
      "last_success_size_bytes": 1048576
    }

Times are UTC, RFC 3339. A file that is missing means that there never was a run. When the disk is
so full that not even this can be written, it keeps saying what it said, and the age tells.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from flashpods.adapters.sqlite.connection import to_text
from flashpods.adapters.sqlite.copies import sync

NAME: Final = "status.json"
VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The file's content; see the module's text."""

    finished_at: str
    ok: bool
    duration_seconds: float
    error: str | None = None
    message: str | None = None
    file: str | None = None
    size_bytes: int | None = None
    files_size_bytes: int | None = None
    schema: int | None = None
    jobs: int | None = None
    warnings: list[str] = field(default_factory=list)
    last_success_at: str | None = None
    last_success_size_bytes: int | None = None
    version: int = VERSION

    @property
    def last_success(self) -> datetime | None:
        """When the last good one ended."""
        return datetime.fromisoformat(self.last_success_at) if self.last_success_at else None


def read(directory: Path) -> Status | None:
    """Return the last status; None if there is none that can be read."""
    try:
        data: Any = json.loads((directory / NAME).read_text())
        known = {key: data[key] for key in Status.__dataclass_fields__ if key in data}
        return Status(**known)
    except (OSError, ValueError, TypeError):
        return None


def write(directory: Path, status: Status) -> None:
    """Replace the file.

    Raises:
        OSError: the disk refused; the old file stands.
    """
    write_whole(directory / NAME, json.dumps(asdict(status), indent=2) + "\n", mode=0o644)


def write_whole(path: Path, text: str, *, mode: int, owner: tuple[int, int] | None = None) -> None:
    """Replace a file by one that is on the disk: a reader sees the old one or the new one.

    Raises:
        OSError: the disk refused; the old file stands.
    """
    new = path.with_name(f".{path.name}.new")
    try:
        handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "w") as file:
            if owner is not None and owner != (os.geteuid(), os.getegid()):
                os.fchown(handle, *owner)
            os.fchmod(handle, mode)
            file.write(text)
            file.flush()
            os.fsync(handle)
        new.replace(path)
    except OSError:
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise
    sync(path.parent)


def stamp(at: datetime) -> str:
    """Return a time as the file has it."""
    return to_text(at)
