"""The schema, as numbered migrations.

``PRAGMA user_version`` says how many are applied, so that an up-to-date database opens without
importing sqlite-utils. A released migration is never edited: the next one changes the schema.
"""

# ruff: noqa: S608 - only constants of this package are put into SQL; values are bound
from __future__ import annotations

import os
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from flashpods.adapters.sqlite import copies
from flashpods.adapters.sqlite.copies import CopyError
from flashpods.jobs.states import ACTIVE, ENDED, TERMINAL, JobStatus

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlite_utils import Database, Migrations

MIGRATE_BUSY_SECONDS: Final = 60.0
SET_NAME: Final = "flashpods"
BEFORE_UPGRADE: Final = "before-upgrade"  # beside the database: schema-N-TIME.db
KEEP_COPIES: Final = 3
COPY_SECONDS: Final = 600.0


class SchemaError(Exception):
    """The database can't be used by this version; the message is one line for a person."""


def listed(statuses: Iterable[JobStatus]) -> str:
    """Return states as an SQL list, in the order of the enumeration."""
    chosen = set(statuses)
    return ", ".join(f"'{status.value}'" for status in JobStatus if status in chosen)


# The text must be equal in the index and in queries, or SQLite does not use the partial index.
ACTIVE_SQL: Final = f"status IN ({listed(ACTIVE)})"
REAPABLE_SQL: Final = f"status IN ({listed(ENDED | {JobStatus.CLEANING})})"
_TIME: Final = "TEXT CHECK ({0} IS NULL OR {0} GLOB '????-??-??T??:??:??.???Z')"


def _time(column: str, *, required: bool = False) -> str:
    return f"{column} {_TIME.format(column)}{' NOT NULL' if required else ''}"


_JOBS = f"""
CREATE TABLE jobs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    client_job_id TEXT,
    request_sha256 TEXT NOT NULL,
    type TEXT NOT NULL CHECK (type IN ('worker', 'agent')),
    status TEXT NOT NULL CHECK (status IN ({listed(JobStatus)})),
    phase TEXT,
    command TEXT,
    task TEXT,
    context TEXT,
    git_branch TEXT,
    files_id TEXT,
    image TEXT NOT NULL,
    cpus INTEGER NOT NULL CHECK (cpus >= 1),
    memory_gb INTEGER NOT NULL CHECK (memory_gb >= 1),
    timeout_minutes INTEGER NOT NULL CHECK (timeout_minutes >= 1),
    {_time("created_at", required=True)},
    {_time("started_at")},
    {_time("completed_at")},
    {_time("cancel_requested_at")},
    container_id TEXT,
    exit_code INTEGER,
    error TEXT,
    warnings TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(warnings)),
    {_time("log_deleted_at")},
    {_time("artifacts_deleted_at")}
)"""

_FIRST: Final = (
    _JOBS,
    "CREATE INDEX jobs_by_status ON jobs (status, seq)",
    f"CREATE INDEX jobs_active ON jobs (status, cpus, memory_gb) WHERE {ACTIVE_SQL}",
    f"CREATE INDEX jobs_reapable ON jobs (completed_at) WHERE {REAPABLE_SQL}",
    # Counts by state, so that the total of a list costs nothing at a million rows.
    f"""CREATE TABLE job_counts (
        status TEXT PRIMARY KEY CHECK (status IN ({listed(JobStatus)})),
        n INTEGER NOT NULL DEFAULT 0 CHECK (n >= 0)
    ) WITHOUT ROWID""",
    "INSERT INTO job_counts (status) VALUES "
    + ", ".join(f"('{status.value}')" for status in JobStatus),
    """CREATE TRIGGER jobs_counted AFTER INSERT ON jobs BEGIN
        UPDATE job_counts SET n = n + 1 WHERE status = NEW.status;
    END""",
    """CREATE TRIGGER jobs_recounted AFTER UPDATE OF status ON jobs
    WHEN OLD.status <> NEW.status BEGIN
        UPDATE job_counts SET n = n - 1 WHERE status = OLD.status;
        UPDATE job_counts SET n = n + 1 WHERE status = NEW.status;
    END""",
    """CREATE TRIGGER jobs_uncounted AFTER DELETE ON jobs BEGIN
        UPDATE job_counts SET n = n - 1 WHERE status = OLD.status;
    END""",
    # An operator who ends a job by hand in the sqlite3 shell (operations guide) seldom dates it,
    # and an undated row would never be cleaned.
    f"""CREATE TRIGGER jobs_dated AFTER UPDATE OF status ON jobs
    WHEN NEW.status IN ({listed(TERMINAL)}) AND NEW.completed_at IS NULL BEGIN
        UPDATE jobs SET completed_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now') WHERE seq = NEW.seq;
    END""",
    f"""CREATE TABLE idempotency_keys (
        client_job_id TEXT PRIMARY KEY,
        request_sha256 TEXT NOT NULL,
        job_id TEXT NOT NULL UNIQUE REFERENCES jobs (id) ON DELETE CASCADE,
        {_time("created_at", required=True)}
    ) WITHOUT ROWID""",
    f"""CREATE TABLE job_events (
        n INTEGER PRIMARY KEY,
        job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
        from_status TEXT CHECK (from_status IN ({listed(JobStatus)})),
        to_status TEXT NOT NULL CHECK (to_status IN ({listed(JobStatus)})),
        {_time("at", required=True)},
        why TEXT NOT NULL
    )""",
    "CREATE INDEX job_events_by_job ON job_events (job_id, n)",
    f"""CREATE TABLE artifacts (
        job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
        name TEXT NOT NULL,
        type TEXT NOT NULL CHECK (type IN ('file', 'directory')),
        size_bytes INTEGER NOT NULL,
        sha256 TEXT,
        {_time("created_at", required=True)},
        PRIMARY KEY (job_id, name)
    ) WITHOUT ROWID""",
    f"""CREATE TABLE uploads (
        n INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        project TEXT,
        state TEXT NOT NULL CHECK (state IN ('uploading', 'finalized', 'consumed', 'expired')),
        {_time("created_at", required=True)},
        {_time("expires_at")},
        {_time("finalizing_at")},
        {_time("finalized_at")},
        {_time("consumed_at")},
        {_time("expired_at")},
        size_bytes INTEGER,
        file_count INTEGER,
        job_id TEXT REFERENCES jobs (id) ON DELETE SET NULL
    )""",
    "CREATE INDEX uploads_by_state ON uploads (state, created_at, n)",
    "CREATE INDEX uploads_by_job ON uploads (job_id) WHERE job_id IS NOT NULL",
    f"""CREATE TABLE transfers (
        upload_id TEXT NOT NULL REFERENCES uploads (id) ON DELETE CASCADE,
        rsync_pid INTEGER NOT NULL,
        pid INTEGER NOT NULL,
        start_ticks INTEGER NOT NULL,
        {_time("started_at", required=True)},
        PRIMARY KEY (upload_id, rsync_pid, pid)
    ) WITHOUT ROWID""",
    "CREATE INDEX transfers_by_rsync ON transfers (rsync_pid)",
    f"CREATE TABLE flags (name TEXT PRIMARY KEY, {_time('at', required=True)}) WITHOUT ROWID",
)

# A failed job's error is one of our codes, unless an operator wrote it. The number of reasons is
# bounded, because each is a time series for ever.
_REASON: Final = """CASE
    WHEN {0}.status <> 'failed' THEN ''
    WHEN {0}.error IS NULL THEN 'exit_code'
    WHEN length({0}.error) > 48 OR {0}.error GLOB '*[^a-z0-9_]*' OR {0}.error = '' THEN 'other'
    WHEN (SELECT count(DISTINCT reason) FROM job_totals) > 40 AND NOT EXISTS
        (SELECT 1 FROM job_totals WHERE reason = {0}.error) THEN 'other'
    ELSE {0}.error END"""
_ENDED_NOW: Final = f"NEW.status IN ({listed(ENDED)}) AND OLD.status NOT IN ({listed(TERMINAL)})"

# What ever happened, by triggers: whoever moves a row is counted, and no restart counts anew.
_TOTALS: Final = (
    """CREATE TABLE job_totals (
        type TEXT NOT NULL,
        outcome TEXT NOT NULL,
        reason TEXT NOT NULL,
        n INTEGER NOT NULL,
        PRIMARY KEY (type, outcome, reason)
    ) WITHOUT ROWID""",
    "INSERT INTO job_totals SELECT type, 'created', '', count(*) FROM jobs GROUP BY type",
    # A job that is being cleaned, or is cleaned, ended before; its last but one event tells how.
    f"""INSERT INTO job_totals
        SELECT type, status, {_REASON.format("ended")}, count(*) FROM (
            SELECT jobs.type, job_events.to_status AS status, jobs.error
            FROM job_events JOIN jobs ON jobs.id = job_events.job_id
            WHERE job_events.to_status IN ({listed(ENDED)})
        ) AS ended GROUP BY 1, 2, 3""",
    """CREATE TRIGGER jobs_created_total AFTER INSERT ON jobs BEGIN
        INSERT INTO job_totals VALUES (NEW.type, 'created', '', 1)
            ON CONFLICT DO UPDATE SET n = n + 1;
    END""",
    f"""CREATE TRIGGER jobs_ended_total AFTER UPDATE OF status ON jobs WHEN {_ENDED_NOW} BEGIN
        INSERT INTO job_totals VALUES (NEW.type, NEW.status, {_REASON.format("NEW")}, 1)
            ON CONFLICT DO UPDATE SET n = n + 1;
    END""",
    """CREATE TABLE upload_totals (
        state TEXT PRIMARY KEY,
        n INTEGER NOT NULL,
        bytes INTEGER NOT NULL
    ) WITHOUT ROWID""",
    """INSERT INTO upload_totals
        SELECT state, count(*), coalesce(sum(size_bytes), 0) FROM uploads GROUP BY state""",
    """CREATE TRIGGER uploads_created_total AFTER INSERT ON uploads BEGIN
        INSERT INTO upload_totals VALUES (NEW.state, 1, coalesce(NEW.size_bytes, 0))
            ON CONFLICT DO UPDATE SET n = n + 1, bytes = bytes + excluded.bytes;
    END""",
    """CREATE TRIGGER uploads_moved_total AFTER UPDATE OF state ON uploads
    WHEN OLD.state <> NEW.state BEGIN
        INSERT INTO upload_totals VALUES (NEW.state, 1, coalesce(NEW.size_bytes, 0))
            ON CONFLICT DO UPDATE SET n = n + 1, bytes = bytes + excluded.bytes;
    END""",
)

STEPS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("0001_first", _FIRST),
    ("0002_totals", _TOTALS),
)
"""The migrations in order: name and statements. Only ever append."""


def migrations() -> Migrations:
    """Return the steps as a set that sqlite-utils applies."""
    from sqlite_utils import Migrations  # noqa: PLC0415 - 0.2 s, and only a migration needs it

    found = Migrations(SET_NAME)
    for name, statements in STEPS:

        def apply(db: Database, statements: tuple[str, ...] = statements) -> None:
            for statement in statements:
                db.conn.execute(statement)

        found(name=name)(apply)
    return found


def migrate(path: Path) -> None:
    """Create the database or bring it to this version's schema; blocks.

    Two processes may call it at once: the whole is one ``BEGIN IMMEDIATE`` transaction. Before an
    older schema is changed, a checked copy of it goes to ``before-upgrade/`` beside the database.

    Raises:
        SchemaError: the file can't be opened, is no database of ours, or is of a newer version.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(path, timeout=MIGRATE_BUSY_SECONDS, isolation_level=None)
    except OSError as e:
        raise SchemaError(
            f"database {path}: {e.strerror}; give a directory that I may write"
        ) from e
    except sqlite3.Error as e:
        raise SchemaError(f"database {path}: {e}; give a directory that I may write") from e
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        if _version(connection, path) < len(STEPS):
            _apply(connection, path)
    except (sqlite3.Error, CopyError, OSError) as e:
        raise SchemaError(f"database {path} can't be brought to this version: {e}") from e
    finally:
        connection.close()


def _version(connection: sqlite3.Connection, path: Path) -> int:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > len(STEPS):
        raise SchemaError(
            f"database {path} has schema {version}, this version knows {len(STEPS)}: run the newer "
            f"flashpods, or go back to before the upgrade: "
            f"flashpods-admin restore {way_back(path)}"
        )
    return version


def way_back(path: Path) -> str:
    """Return the newest copy from before an upgrade that this version can use, else ``FILE``."""
    for schema, copy in reversed(_kept(path)):
        if schema <= len(STEPS):
            return str(copy)
    return "FILE"


def _kept(path: Path) -> list[tuple[int, Path]]:
    """Return (schema, file) of the copies of before upgrades, oldest first."""
    found = []
    for copy in (path.parent / BEFORE_UPGRADE).glob("schema-*.db"):
        schema = copy.name.split("-")[1]
        if schema.isdigit():
            found.append((copy.name.rpartition("-")[2], int(schema), copy))
    return [(schema, copy) for _, schema, copy in sorted(found)]


def _keep(path: Path, schema: int) -> None:
    """Copy the database as it is, and prove the copy; the caller holds the write lock.

    Raises:
        CopyError: the disk is full, or the database is damaged; nothing was changed.
    """
    directory = path.parent / BEFORE_UPGRADE
    directory.mkdir(mode=0o700, exist_ok=True)
    final = directory / f"schema-{schema}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.db"
    new = directory / f".{final.name}"
    new.unlink(missing_ok=True)
    copies.copy(path, new, seconds=COPY_SECONDS)
    found = copies.examine(new, seconds=COPY_SECONDS)
    if found.problems:
        new.unlink()
        raise CopyError(f"it is damaged: {found.problems[0]}", "damaged")
    new.rename(final)
    copies.sync(directory)
    for _, old in _kept(path)[:-KEEP_COPIES]:
        old.unlink(missing_ok=True)


def _apply(connection: sqlite3.Connection, path: Path) -> None:
    from sqlite_utils import Database  # noqa: PLC0415 - 0.2 s, and only a migration needs it

    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _version(connection, path)
        if version < len(STEPS):  # another process may have been faster
            if version:
                _keep(path, version)
            migrations().apply(Database(connection, execute_plugins=False))
            connection.execute(f"PRAGMA user_version = {len(STEPS)}")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
