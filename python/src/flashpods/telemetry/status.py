"""The status files: how a process that no scrape reaches leaves word of its last run.

``flashpods-cleanup`` writes ``cleanup.json`` beside the database, which it may write to, the
backup ``<backup.directory>/status.json`` (:mod:`flashpods.admin.backups.status`). Times are Unix
seconds, or RFC 3339 with a zone. Of a copy elsewhere there is but a file that is touched.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from flashpods.config import Settings
from flashpods.jobs.cleanup import STEPS, Report

MOST_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanupStatus:
    """What the reaper has done: totals by step since its first run ever, and its last round."""

    done: dict[str, int]
    failed: int
    last_run_at: float  # Unix time
    last_success_at: float | None  # of a round without a failure
    duration_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupStatus:
    """The last backup, and the last one that was good."""

    ok: bool
    finished_at: float  # Unix time
    last_success_at: float | None
    size_bytes: int | None
    duration_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusFiles:
    """Where each leaves word; ``elsewhere`` is None where nobody is to carry backups away."""

    cleanup: Path
    backup: Path
    elsewhere: Path | None = None


def status_files(settings: Settings) -> StatusFiles:
    """Return where the settings have them."""
    return StatusFiles(
        cleanup=cleanup_file(settings),
        backup=settings.backup.directory / "status.json",
        elsewhere=settings.backup.elsewhere,
    )


def cleanup_file(settings: Settings) -> Path:
    """Return where the reaper leaves word."""
    return settings.paths.database.with_name("cleanup.json")


def read_cleanup(path: Path) -> CleanupStatus | None:
    """Read the reaper's word; None where there is none, or none that makes sense."""
    found = _read(path)
    try:
        return CleanupStatus(
            done={step: int(found["done"].get(step, 0)) for step in STEPS},
            failed=int(found["failed"]),
            last_run_at=_time(found["last_run_at"]),
            last_success_at=_maybe_time(found.get("last_success_at")),
            duration_seconds=float(found["duration_seconds"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def read_backup(path: Path) -> BackupStatus | None:
    """Read the backup's word: None where none was made yet, or where it makes no sense."""
    found = _read(path)
    try:
        size, seconds = found.get("size_bytes"), found.get("duration_seconds")
        return BackupStatus(
            ok=bool(found["ok"]),
            finished_at=_time(found["finished_at"]),
            last_success_at=_maybe_time(found.get("last_success_at")),
            size_bytes=None if size is None else int(size),
            duration_seconds=None if seconds is None else float(seconds),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def read_elsewhere(path: Path | None) -> float | None:
    """Return when backups were last carried elsewhere, Unix time; 0: never; None: nobody is to."""
    if path is None:
        return None
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


class CleanupLedger:
    """Adds up the reaper's rounds and leaves word after each; blocks for a small write."""

    def __init__(self, path: Path) -> None:
        """Go on from what an earlier process left, so that totals never fall."""
        self._path = path
        before = read_cleanup(path)
        self._done: Counter[str] = Counter(before.done if before else {})
        self._failed = before.failed if before else 0
        self._good = before.last_success_at if before else None

    def round(self, report: Report, *, at: datetime, seconds: float) -> None:
        """Add a round that ended at ``at`` and took ``seconds``.

        Raises:
            OSError: the file can't be written; the next round tells of this one as well.
        """
        self._done.update(report.done)
        failed = sum(report.failed.values())
        self._failed += failed
        if not failed:
            self._good = at.timestamp()
        status = {
            "done": dict(self._done),
            "failed": self._failed,
            "last_run_at": at.timestamp(),
            "last_success_at": self._good,
            "duration_seconds": round(seconds, 6),
        }
        new = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        new.write_text(json.dumps(status) + "\n")
        new.replace(self._path)


def _read(path: Path) -> Any:
    """Return the file's JSON; None if it can't be had."""
    try:
        with path.open("rb") as file:
            return json.loads(file.read(MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return None


def _maybe_time(value: Any) -> float | None:
    return None if value is None else _time(value)


def _time(value: Any) -> float:
    """Return a Unix time from a number, or from RFC 3339 text with its zone."""
    if isinstance(value, str):
        at = datetime.fromisoformat(value)
        if at.tzinfo is None:
            raise ValueError(f"{value} has no zone")
        return at.timestamp()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("no time")
    return float(value)
