"""Makes a backup: copy, check, name; then pack and delete old ones; then say how it went."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Final

from flashpods.adapters.sqlite import copies
from flashpods.adapters.sqlite.copies import CopyError, Examined
from flashpods.admin.backups import files, names, packing, status
from flashpods.config import Settings

SLACK_BYTES: Final = 16 * 1024**2  # left free beside a copy
SHARE_LEFT: Final = 0.02  # of the file system, likewise: others live on it


@dataclass(slots=True, kw_only=True)
class Made:
    """What a run did."""

    file: Path
    size_bytes: int
    examined: Examined
    files: Path | None = None
    files_size_bytes: int | None = None
    packed: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def make(settings: Settings, *, now: datetime) -> Made:
    """Make today's backup, replacing one of today only by one that is proved to be good.

    Repeated: the same again. The status file says what came of it, good or bad.

    Raises:
        CopyError: ``disk_full``, ``damaged`` (the database itself), ``timeout``, ``unreadable``,
            ``in_use`` (another backup runs). What was there before is still there.
    """
    directory = settings.backup.directory
    began = time.monotonic()
    prepare(settings)
    with _alone(directory):
        before = status.read(directory)
        try:
            made = _make(settings, now.date())
        except CopyError as e:
            failed = status.Status(
                finished_at=status.stamp(now + timedelta(seconds=_since(began))),
                ok=False,
                duration_seconds=_since(began),
                error=e.code,
                message=str(e),
                last_success_at=before.last_success_at if before else None,
                last_success_size_bytes=before.last_success_size_bytes if before else None,
            )
            with suppress(OSError):  # as full as that: the age of the last one tells
                status.write(directory, failed)
            raise
        _report(directory, made, now, began)
    return made


def _report(directory: Path, made: Made, now: datetime, began: float) -> None:
    ended = now + timedelta(seconds=_since(began))
    good = status.Status(
        finished_at=status.stamp(ended),
        ok=True,
        duration_seconds=_since(began),
        file=made.file.name,
        size_bytes=made.size_bytes,
        files_size_bytes=made.files_size_bytes,
        schema=made.examined.schema,
        jobs=made.examined.jobs,
        warnings=made.warnings,
        last_success_at=status.stamp(ended),
        last_success_size_bytes=made.size_bytes,
    )
    try:
        status.write(directory, good)
    except OSError as e:
        raise packing.disk_error(e, directory / status.NAME) from e


def _since(began: float) -> float:
    return round(time.monotonic() - began, 3)


def _make(settings: Settings, today: date) -> Made:
    backup, source = settings.backup, settings.paths.database
    directory = backup.directory
    if not source.exists():
        raise CopyError(f"there is no database {source}; is paths.database right?", "unreadable")
    size = sum(p.stat().st_size for p in (source, wal_of(source)) if p.exists())
    need_room(directory, size)
    new = directory / f"{names.TEMPORARY}{names.database_name(today)}"
    copies.copy(source, new, seconds=backup.deadline_seconds)
    examined = copies.examine(new, seconds=backup.deadline_seconds)
    if examined.problems:
        new.unlink()
        raise CopyError(
            f"the database {source} is damaged: {examined.problems[0]}; the backups of the days "
            f"before stay; see flashpods-admin verify",
            "damaged",
        )
    file = _named(new, directory / names.database_name(today))
    made = Made(file=file, size_bytes=file.stat().st_size, examined=examined)
    _archive(settings, today, made)
    _pack_older(settings, today, made)
    _retain(settings, made)
    return made


def _named(new: Path, final: Path) -> Path:
    """Give the finished file its name; the name is on the disk when this returns."""
    new.replace(final)
    copies.sync(final.parent)
    return final


def _archive(settings: Settings, today: date, made: Made) -> None:
    backup, paths = settings.backup, settings.paths
    trees = files.trees_of(
        paths.artifacts if backup.artifacts else None, paths.logs if backup.logs else None
    )
    if not trees:
        return
    need_room(backup.directory, files.size_of(trees))
    final = backup.directory / names.files_name(today)
    new = final.with_name(names.TEMPORARY + final.name)
    files.archive(trees, new, level=backup.compression)
    made.files = _named(new, final)
    made.files_size_bytes = final.stat().st_size


def _pack_older(settings: Settings, today: date, made: Made) -> None:
    """Pack the copies of earlier days; one that can't be stays as it is, and is tried again."""
    backup = settings.backup
    for old in names.kept(backup.directory):
        if old.kind != "db" or old.packed or old.day >= today:
            continue
        final = old.path.with_name(old.path.name + ".zst")
        new = final.with_name(names.TEMPORARY + final.name)
        try:
            packing.pack(old.path, new, level=backup.compression)
        except CopyError as e:
            made.warnings.append(f"{old.path.name} stays unpacked: {e}")
            continue
        _named(new, final)
        old.path.unlink()
        made.packed.append(final.name)


def _retain(settings: Settings, made: Made) -> None:
    backup = settings.backup
    found = names.kept(backup.directory)
    stay = names.days_to_keep(
        (k.day for k in found if k.kind == "db"), daily=backup.daily, weekly=backup.weekly
    )
    for old in found:
        if old.day not in stay:
            old.path.unlink(missing_ok=True)
            made.deleted.append(old.path.name)


def prepare(settings: Settings) -> None:
    """Make the directory if need be; root gives it to the database's owner, whose timer writes.

    Raises:
        CopyError: ``unreadable``.
    """
    directory, database = settings.backup.directory, settings.paths.database
    if directory.is_dir():
        return
    try:
        directory.mkdir(mode=0o750, parents=True)
        if os.geteuid() == 0 and database.exists():
            owner = database.stat()
            os.chown(directory, owner.st_uid, owner.st_gid)
    except OSError as e:
        raise CopyError(
            f"backup.directory {directory}: {e.strerror}; make it and own it", "unreadable"
        ) from e


def need_room(directory: Path, size_bytes: int) -> None:
    """Refuse to begin what would fill a file system.

    Raises:
        CopyError: ``disk_full``, with the figures.
    """
    disk = shutil.disk_usage(directory)
    need = size_bytes + max(SLACK_BYTES, int(disk.total * SHARE_LEFT))
    if disk.free < need:
        raise CopyError(
            f"{directory} has {disk.free // 1024**2} MB free, {need // 1024**2} MB are needed; "
            f"free space there",
            "disk_full",
        )


def wal_of(database: Path) -> Path:
    """Return where a database's write-ahead log is."""
    return database.with_name(database.name + "-wal")


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Keep other backups out, take away what a crash left."""
    try:
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as e:
        raise CopyError(
            f"backup.directory {directory}: {e.strerror}; make it and own it", "unreadable"
        ) from e
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for left in directory.glob(f"{names.TEMPORARY}*"):
            left.unlink()
        yield
    except BlockingIOError as e:
        raise CopyError(f"another backup to {directory} runs; wait for it", "in_use") from e
    except OSError as e:
        raise packing.disk_error(e, directory) from e
    finally:
        os.close(handle)
