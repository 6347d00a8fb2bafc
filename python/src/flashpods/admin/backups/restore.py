"""Puts a backup in the place of the database.

Checked before anything stops; what was there goes aside, whole; the services that ran before run
again afterwards, whatever came of it. Killed anywhere, it is run again (see
:mod:`flashpods.adapters.sqlite.swap`).
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from flashpods.adapters.sqlite import copies
from flashpods.adapters.sqlite.copies import CopyError, Examined
from flashpods.adapters.sqlite.lost import mark_lost
from flashpods.adapters.sqlite.migrations import STEPS
from flashpods.adapters.sqlite.swap import swap
from flashpods.admin.backups import files, names, packing
from flashpods.admin.backups.make import need_room
from flashpods.admin.command import AdminError
from flashpods.admin.live import LiveApi
from flashpods.admin.privileges import as_owner_of
from flashpods.admin.units import API, CLEANUP, Units
from flashpods.config import Settings

HEALTH_SECONDS: Final = 90.0
ASIDE: Final = "before-restore-"
KEEP_ASIDE: Final = 3
_NEW: Final = ".restore.db"

Say = Callable[[str], None]


@dataclass(slots=True, kw_only=True)
class Restored:
    """What a restore did."""

    file: Path
    examined: Examined
    aside: Path
    seconds: float = 0.0  # from the first stop to the API's first good answer
    restarted: list[str] = field(default_factory=list)
    files: int | None = None  # artifacts and logs put back
    verified_by: str = "a check of the database"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is to be restored, and with what."""

    settings: Settings
    file: Path
    with_files: bool
    units: Units | None


def locate(settings: Settings, given: str) -> Path:
    """Return the backup that was meant: a path, a name in the directory, or ``latest``.

    Raises:
        AdminError: ``backup_not_found``, with the names that there are.
    """
    directory = settings.backup.directory
    try:
        there = [k.path for k in names.kept(directory) if k.kind == "db"]
    except OSError:
        there = []
    if given == "latest" and there:
        return there[0]
    for path in (Path(given), directory / given):
        if given != "latest" and path.is_file():
            return path
    known = ", ".join(path.name for path in there[:12]) or "none"
    raise AdminError(
        f"there is no backup {given!r:.200}; in {directory} are: {known}", code="backup_not_found"
    )


def check(source: Path, *, seconds: float) -> Examined:
    """Look at a database that is to be restored.

    Raises:
        AdminError: ``backup_damaged``, ``schema_newer``.
        CopyError: it can't be read, or not in time.
    """
    found = copies.examine(source, seconds=seconds)
    if found.problems:
        raise AdminError(
            f"the backup is damaged: {found.problems[0]}; take an older one", code="backup_damaged"
        )
    if found.schema > len(STEPS):
        raise AdminError(
            f"the backup has schema {found.schema}, this version knows {len(STEPS)}: "
            f"install the version that made it, or a newer one, first",
            code="schema_newer",
        )
    return found


def restore(target: Target, *, now: datetime, say: Say) -> Restored:
    """Restore; see the module's text.

    Raises:
        AdminError: ``backup_damaged``, ``schema_newer``, ``database_in_use``, ``restore_failed``,
            ``not_verified``, ``systemd_failed``.
        CopyError: ``disk_full``, ``unreadable``, ``timeout``; nothing was changed.
    """
    settings = target.settings
    database = settings.paths.database
    new = _unpacked(target)
    try:
        examined = check(new, seconds=settings.backup.deadline_seconds)
        aside = database.parent / f"{ASIDE}{now:%Y%m%dT%H%M%S}Z"
        done = Restored(file=target.file, examined=examined, aside=aside)
        began = time.monotonic()
        with _stopped(target.units, say) as running:
            _replace(database, new, aside)
            say(f"the database is that of {target.file}; the former is in {aside}")
            if target.with_files:
                done.files = _files_back(target, say)
            _mark_lost(settings, now, say)
            done.restarted = running
    finally:
        new.unlink(missing_ok=True)
    _verify(target, done)
    done.seconds = round(time.monotonic() - began, 3)
    _bound_asides(database.parent)
    return done


def _unpacked(target: Target) -> Path:
    """Write the backup beside the database, as a file of the database's owner."""
    directory = target.settings.paths.database.parent
    new = directory / _NEW
    packed = 12 if target.file.name.endswith(".zst") else 1  # rows of text pack that well
    need_room(directory, target.file.stat().st_size * packed)
    new.unlink(missing_ok=True)
    packing.unpack(target.file, new)
    if os.geteuid() == 0:
        owner = directory.stat()
        os.chown(new, owner.st_uid, owner.st_gid)
    return new


@contextmanager
def _stopped(units: Units | None, say: Say) -> Iterator[list[str]]:
    """Stop the services that use the database; start those that ran, whatever happens."""
    running: list[str] = []
    if units is not None:
        states = units.states(API, CLEANUP)
        running = [name for name, state in states.items() if state in {"active", "activating"}]
    if running:
        say(f"stopping {', '.join(running)}; running jobs go on")
    try:
        if units is not None:
            units.stop(*running)
        yield running
    finally:
        if units is not None and running:
            say(f"starting {', '.join(running)}")
            units.start(*running)


def _replace(database: Path, new: Path, aside: Path) -> None:
    try:
        with as_owner_of(database.parent):
            swap(database, new, aside)
    except CopyError as e:
        raise AdminError(
            f"{e} (the API, the cleanup, or a shell); nothing was changed", code="database_in_use"
        ) from e
    except OSError as e:
        raise AdminError(
            f"{database}: {e.strerror}; the old files are there or in {aside}; "
            f"no service opens it before the restore is run again",
            code="restore_failed",
        ) from e


def _files_back(target: Target, say: Say) -> int:
    day = names.parse(target.file)
    archive = target.file.with_name(names.files_name(day.day)) if day else None
    if archive is None or not archive.exists():
        raise AdminError(
            f"there is no {archive or 'archive of that day'} beside {target.file}; the database is "
            f"restored, artifacts and logs are as they were",
            code="files_not_found",
        )
    paths = target.settings.paths
    count = files.extract(archive, files.trees_of(paths.artifacts, paths.logs))
    say(f"{count} artifacts and logs put back from {archive.name}")
    return count


def _mark_lost(settings: Settings, now: datetime, say: Say) -> None:
    paths = settings.paths
    try:
        with as_owner_of(paths.database.parent):
            lost = mark_lost(
                paths.database,
                logs=paths.logs,
                capture=paths.capture,
                artifacts=paths.artifacts,
                at=now,
            )
    except (sqlite3.Error, OSError) as e:
        raise AdminError(
            f"{paths.database}: {e}; it is restored, but lists files that are not here",
            code="restore_failed",
        ) from e
    if lost.logs or lost.artifacts:
        say(
            f"not here: the logs of {lost.logs} ended jobs, the artifacts of {lost.artifacts}; "
            f"their rows now say so"
        )


def _verify(target: Target, done: Restored) -> None:
    """Prove that what is in place is used, or at least can be."""
    if API in done.restarted:
        health = LiveApi(target.settings).wait_for_database(HEALTH_SECONDS)
        if health is None:
            raise AdminError(
                f"the API does not use the restored database within {HEALTH_SECONDS:g} s; see "
                f"journalctl -u {API}; to go back: flashpods-admin restore "
                f"{done.aside / target.settings.paths.database.name}",
                code="not_verified",
            )
        done.verified_by = "the API's health"
        return
    with as_owner_of(target.settings.paths.database.parent):
        check(target.settings.paths.database, seconds=target.settings.backup.deadline_seconds)


def _bound_asides(directory: Path) -> None:
    for old in sorted(directory.glob(f"{ASIDE}*"))[:-KEEP_ASIDE]:
        shutil.rmtree(old, ignore_errors=True)
