"""The database, the disks, the backups, and whether cleanup keeps up."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from flashpods.adapters.files.disk import StatvfsGauge
from flashpods.adapters.sqlite import copies, damage, swap
from flashpods.adapters.sqlite.migrations import STEPS, way_back
from flashpods.admin.backups import status
from flashpods.admin.backups.make import wal_of
from flashpods.admin.doctor import listeners
from flashpods.admin.doctor.finding import Finding, Look, Severity
from flashpods.admin.opened import with_store
from flashpods.admin.units import BACKUP_TIMER, CARRIER
from flashpods.telemetry.status import cleanup_file, read_cleanup, read_elsewhere

WRITE_SECONDS: Final = 2.0
WAL_BYTES: Final = 256 * 1024**2
HOLES_BYTES: Final = 64 * 1024**2
BACKUP_AGE: Final = timedelta(hours=26)  # a day, and two hours for the run and its delay
CARRIED_AGE: Final = timedelta(hours=36)  # one night's copy elsewhere is missing
CARRIED_SOON: Final = timedelta(hours=6)  # the first copy may be large
BEHIND: Final = timedelta(minutes=15)
# Rounds of cleanup, a minute each by default; and seconds, for rounds that are shorter.
STALE_ROUNDS, STALE_SECONDS = 10, 60.0
FAILING_ROUNDS, FAILING_SECONDS = 5, 30.0
_BROKEN = "database-issues"


def database(look: Look) -> list[Finding]:
    """See whether the database can be used at all, and by whom it is held."""
    path = look.settings.paths.database
    if (found := _unusable(path)) is not None:
        return [found]
    return [*_locked(path), *_swollen(path)]


def _unusable(path: Path) -> Finding | None:
    def critical(code: str, symptom: str, cause: str, *remedy: str) -> Finding:
        return Finding(
            code=code,
            severity=Severity.CRITICAL,
            symptom=symptom,
            cause=cause,
            remedy=remedy,
            anchor=_BROKEN,
        )

    restore = ("flashpods-admin backup --list", "flashpods-admin restore latest")
    if swap.interrupted(path):
        symptom = "the API does not start: a restore was interrupted"
        return critical("restore_interrupted", symptom, f"{swap.mark_of(path)} is there", *restore)
    if not path.exists():
        return critical("database_missing", f"there is no database {path}", "it was lost", *restore)
    try:
        found, schema = damage.find(path), copies.schema_of(path)
    except (OSError, sqlite3.Error, copies.CopyError) as e:
        return critical("database_unreadable", f"{path} can't be read", str(e), *restore)
    if found:
        return critical("database_damaged", "the database is damaged", found, *restore)
    if schema > len(STEPS):
        cause = f"it has schema {schema}, this version knows {len(STEPS)}: an older version runs"
        symptom = "the API does not start: the database is of a newer version"
        remedy = "nixos-rebuild switch (to the newer version)"
        back = f"flashpods-admin restore {way_back(path)}"
        return critical("schema_newer", symptom, cause, remedy, back)
    return None


def _locked(path: Path) -> list[Finding]:
    holder = copies.write_lock_holder(path, seconds=WRITE_SECONDS)
    if holder is None:
        return []
    who = f"process {holder}" if holder else "a process"
    return [
        Finding(
            code="database_locked",
            severity=Severity.CRITICAL,
            symptom="requests that write answer 503: the database is locked",
            cause=f"{who} holds the write lock for more than {WRITE_SECONDS:g} s: "
            f"{listeners.command(holder) if holder else 'it is not to be seen from here'}",
            remedy=(f"kill {holder or 'PID'}",),
            anchor=_BROKEN,
        )
    ]


def _swollen(path: Path) -> list[Finding]:
    found: list[Finding] = []
    wal = wal_of(path)
    size = wal.stat().st_size if wal.exists() else 0
    if size > WAL_BYTES:
        found.append(
            Finding(
                code="wal_large",
                severity=Severity.WARNING,
                symptom=f"{wal} has {size // 1024**2} MB, and reads become slow",
                cause="a reader that never ends keeps the log from being emptied",
                remedy=(f"fuser -v {path}", "systemctl restart flashpods-api"),
                anchor=_BROKEN,
            )
        )
    free = copies.free_bytes(path)
    if free > HOLES_BYTES and free > path.stat().st_size // 2:
        found.append(
            Finding(
                code="database_holes",
                severity=Severity.NOTICE,
                symptom=f"{free // 1024**2} MB of the database are holes",
                cause="many rows went at once",
                remedy=("flashpods-admin vacuum",),
                anchor=_BROKEN,
            )
        )
    return found


def disks(look: Look) -> list[Finding]:
    """Compare each tree's file system with the thresholds."""
    settings, paths = look.settings, look.settings.paths
    remedies = {
        paths.work: ("flashpods-admin gc",),
        paths.artifacts: ("flashpods-admin gc", "flashpods-admin clean --older-than 1h"),
        paths.logs: ("flashpods-admin gc", "flashpods-admin clean --older-than 12h"),
        paths.database.parent: ("flashpods-admin vacuum", "flashpods-admin clean --older-than 1d"),
        settings.backup.directory: ("flashpods-admin backup --list",),
    }
    found: list[Finding] = []
    for path, remedy in remedies.items():
        if not path.exists():
            continue
        (part,) = StatvfsGauge((path,)).usage().values()
        percent = 100 * part
        if percent < settings.disk.warn_percent:
            continue
        critical = percent >= settings.disk.critical_percent
        found.append(
            Finding(
                code="disk_full",
                severity=Severity.CRITICAL if critical else Severity.WARNING,
                symptom=f"{path} is {percent:.1f} % full"
                + ("; new jobs answer 507" if critical else ""),
                cause="what jobs leave is kept for its time, or something else fills the disk",
                remedy=(*remedy, f"du -axh {path} | sort -h | tail"),
                anchor="disks-fill-up",
            )
        )
    return found


def backups(look: Look) -> list[Finding]:
    """See whether there is a recent copy."""
    directory = look.settings.backup.directory
    last = status.read(directory)
    timer = look.units.states(BACKUP_TIMER)[BACKUP_TIMER] if look.units else "absent"
    off = f"{BACKUP_TIMER} is {timer}" if timer not in {"active", "absent"} else ""
    if last is None:
        symptom = f"there never was a backup in {directory}"
        waits = "its first night has not come yet" if timer == "active" else "the timer is not on"
        cause = off or waits
    elif not last.ok:
        symptom, cause = "the last backup failed", f"{last.error}: {last.message}"
    elif last.last_success is None or look.now - last.last_success > BACKUP_AGE:
        symptom = f"the last backup is of {last.last_success_at}"
        cause = off or "the timer does not run"
    elif off:
        symptom, cause = "there will be no backup tonight", off
    else:
        return []
    on = (f"systemctl start {BACKUP_TIMER}",) if off else ()
    return [
        Finding(
            code="backup_stale",
            severity=Severity.WARNING,
            symptom=symptom,
            cause=cause,
            remedy=(
                *on,
                "flashpods-admin backup",
                f"systemctl list-timers {BACKUP_TIMER}",
                "journalctl -u flashpods-backup -n 50",
            ),
            anchor="backup",
        )
    ]


def elsewhere(look: Look) -> list[Finding]:
    """See whether the backups are carried to another machine, where somebody is to."""
    settings = look.settings.backup
    state = look.units.states(CARRIER)[CARRIER] if look.units else "absent"
    cause = f"{CARRIER} is {state}"
    if state == "failed":
        symptom = "the last copy elsewhere failed"
    elif (late := _carried_late(look)) is not None:
        symptom = late
        cause += f"; who carries them touches {settings.elsewhere} when that is done"
    else:
        return []
    remedy = (f"journalctl -u {CARRIER} -n 50", f"systemctl start {CARRIER}")
    return [
        Finding(
            code="backup_elsewhere",
            severity=Severity.WARNING,
            symptom=symptom,
            cause=cause,
            remedy=(f"ls -l {settings.elsewhere}",) if state == "absent" else remedy,
            anchor="backup-elsewhere",
        )
    ]


def _carried_late(look: Look) -> str | None:
    """Return what is to be said of the last copy elsewhere; None: in time, or nobody is to."""
    settings = look.settings.backup
    carried = read_elsewhere(settings.elsewhere)
    if carried is None:
        return None
    if carried:
        at = datetime.fromtimestamp(carried, UTC)
        return (
            f"the last copy elsewhere is of {at:%F %T} UTC" if look.now - at > CARRIED_AGE else None
        )
    last = status.read(settings.directory)
    made = last.last_success if last else None
    late = made is not None and look.now - made > CARRIED_SOON
    return "no backup was ever carried elsewhere" if late else None


def cleanup(look: Look) -> list[Finding]:
    """See whether what is over its time has gone, and whether the rounds end well."""
    settings = look.settings
    found = rounds(look)
    keep = min(settings.output.log_retention_seconds, settings.cleanup.job_retention_seconds)
    before = look.now - timedelta(seconds=keep) - BEHIND
    late = with_store(settings, lambda store: store.ended(before=before, limit=100))
    if late:
        more = "at least " if len(late) == 100 else ""
        evidence = tuple(f"{job.id} ended {job.completed_at}" for job in late[:8])
        found.append(
            _behind(
                "cleanup_behind",
                f"{more}{len(late)} jobs should have been cleaned by now",
                "flashpods-cleanup does not run, or fails on them",
                evidence,
            )
        )
    return found


def rounds(look: Look) -> list[Finding]:
    """Judge by the word that cleanup leaves after each round."""
    last = read_cleanup(cleanup_file(look.settings))
    if last is None:
        return []
    every = look.settings.cleanup.every_seconds
    silent = look.now.timestamp() - last.last_run_at
    if silent > max(STALE_ROUNDS * every, STALE_SECONDS):
        symptom = f"the last round of cleanup was {silent:.0f} s ago"
        return [_behind("cleanup_stale", symptom, "flashpods-cleanup does not run, or hangs")]
    good = last.last_success_at
    if last.last_run_at - (good or 0) > max(FAILING_ROUNDS * every, FAILING_SECONDS):
        when = "never" if good is None else f"{datetime.fromtimestamp(good, UTC):%H:%M:%S} UTC"
        symptom = f"each round of cleanup fails on something; the last good one: {when}"
        return [_behind("cleanup_failing", symptom, "the journal names the item and the reason")]
    return []


def _behind(code: str, symptom: str, cause: str, evidence: tuple[str, ...] = ()) -> Finding:
    return Finding(
        code=code,
        severity=Severity.WARNING,
        symptom=symptom,
        cause=cause,
        evidence=evidence,
        remedy=(
            "flashpods-admin gc",
            "journalctl -u flashpods-cleanup -n 50",
            "systemctl restart flashpods-cleanup",
        ),
        anchor="cleanup-falls-behind",
    )
