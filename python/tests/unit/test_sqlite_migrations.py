"""The schema: made once, checked against the code, refused when it is not ours."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flashpods.adapters.sqlite import jobs, migrations
from flashpods.adapters.sqlite.connection import connect_reader, connect_writer
from flashpods.adapters.sqlite.migrations import STEPS, SchemaError, migrate
from flashpods.adapters.sqlite.store import SqliteStore
from flashpods.jobs.states import ACTIVE, TERMINAL, JobStatus

AT = "2026-11-24T09:31:26.123Z"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "flashpods.db"
    migrate(path)
    return path


@pytest.fixture
def connection(database: Path) -> Iterator[sqlite3.Connection]:
    with closing(connect_writer(database)) as opened:
        yield opened


def insert(connection: sqlite3.Connection, status: str, job_id: str = "j1") -> None:
    connection.execute(
        "INSERT INTO jobs (id, request_sha256, type, status, image, cpus, memory_gb,"
        " timeout_minutes, created_at) VALUES (?, 'a', 'worker', ?, 'i', 2, 4, 30, ?)",
        (job_id, status, AT),
    )


def test_the_check_is_the_enumeration(connection: sqlite3.Connection) -> None:
    (sql,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'jobs'").fetchone()
    found = re.search(r"CHECK \(status IN \((.*?)\)\)", sql)
    assert found is not None
    assert re.findall(r"'(\w+)'", found[1]) == [status.value for status in JobStatus]
    for number, status in enumerate(JobStatus):
        insert(connection, status.value, f"j{number}")
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        insert(connection, "paused", "j99")


def test_the_file_is_wal_private_and_has_its_version(database: Path) -> None:
    assert database.stat().st_mode & 0o777 == 0o600
    with closing(connect_reader(database)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA user_version").fetchone() == (len(STEPS),)
        applied = connection.execute("SELECT name FROM _sqlite_migrations").fetchall()
        assert applied == [(name,) for name, _ in STEPS]
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            connection.execute("DELETE FROM flags")


def test_migrating_again_changes_nothing_and_needs_no_sqlite_utils(database: Path) -> None:
    before = database.read_bytes()
    code = (
        "import sys; from pathlib import Path;"
        "from flashpods.adapters.sqlite.migrations import migrate;"
        "migrate(Path(sys.argv[1])); assert 'sqlite_utils' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, database], check=True, timeout=120)
    assert database.read_bytes() == before


def test_processes_that_start_at_once_migrate_once(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(migrate, [path] * 8))
    with closing(connect_reader(path)) as connection:
        (count,) = connection.execute("SELECT count(*) FROM _sqlite_migrations").fetchone()
        assert count == len(STEPS)


def test_a_failed_migration_leaves_nothing(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = ("9999_bad", ("CREATE TABLE half (n INTEGER)", "CREATE TABLE jobs (n INTEGER)"))
    monkeypatch.setattr(migrations, "STEPS", (*STEPS, bad))
    with pytest.raises(SchemaError, match="already exists"):
        migrate(database)
    with closing(connect_reader(database)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(STEPS),)
        named = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'half'").fetchone()
        assert named is None


async def test_a_newer_schema_is_refused(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(SchemaError, match=rf"has schema 99, this version knows {len(STEPS)}: run"):
        await SqliteStore.open(database)


async def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "text.db"
    path.write_text("hello, world\n" * 100)
    with pytest.raises(SchemaError, match="not a database"):
        await SqliteStore.open(path)
    assert path.read_text() == "hello, world\n" * 100


async def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"absent/x\.db: No such file or directory"):
        await SqliteStore.open(tmp_path / "absent" / "x.db")


def test_counts_follow_every_change(connection: sqlite3.Connection) -> None:
    def check() -> None:
        kept = dict(connection.execute("SELECT status, n FROM job_counts WHERE n > 0"))
        real = dict(connection.execute("SELECT status, count(*) FROM jobs GROUP BY status"))
        assert kept == real

    for number, status in enumerate([*JobStatus, *JobStatus]):
        insert(connection, status.value, f"j{number}")
        check()
    connection.execute(
        "UPDATE jobs SET status = 'cleaning' WHERE status IN ('completed', 'failed')"
    )
    check()
    connection.execute("UPDATE jobs SET status = 'cleaning'")
    check()
    connection.execute("DELETE FROM jobs WHERE seq < 5")
    check()
    connection.execute("DELETE FROM jobs")
    check()


@pytest.mark.parametrize("status", sorted(TERMINAL))
def test_a_job_ended_by_hand_gets_a_date(connection: sqlite3.Connection, status: str) -> None:
    insert(connection, "starting")
    connection.execute(f"UPDATE jobs SET status = '{status}' WHERE id = 'j1'")
    (at,) = connection.execute("SELECT completed_at FROM jobs").fetchone()
    assert abs((datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds()) < 60


def test_the_guides_weekly_statement_finds_old_jobs(connection: sqlite3.Connection) -> None:
    insert(connection, "completed")
    connection.execute("UPDATE jobs SET completed_at = '2020-01-01T00:00:00.000Z'")
    insert(connection, "completed", "j2")
    connection.execute(
        "UPDATE jobs SET completed_at = strftime('%Y-%m-%dT%H:%M:%fZ','now') WHERE id = 'j2'"
    )
    connection.execute(
        "UPDATE jobs SET status='cleaning' WHERE status IN"
        " ('completed','failed','timed_out','cancelled')"
        " AND completed_at < datetime('now', '-7 days')"
    )
    found = connection.execute("SELECT id FROM jobs WHERE status = 'cleaning'").fetchall()
    assert found == [("j1",)]


def test_a_time_of_another_form_is_refused(connection: sqlite3.Connection) -> None:
    insert(connection, "completed")
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        connection.execute("UPDATE jobs SET completed_at = '2026-11-24 09:31:26'")


def test_rows_of_no_job_are_refused(connection: sqlite3.Connection) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        connection.execute(
            "INSERT INTO job_events (job_id, to_status, at, why) VALUES ('x', 'pending', ?, '')",
            (AT,),
        )


def plan(connection: sqlite3.Connection, call: object) -> list[str]:
    """Run a query and return the plans of its statements, as SQLite explains them."""
    seen: list[str] = []
    connection.set_trace_callback(seen.append)
    assert callable(call)
    call()
    connection.set_trace_callback(None)
    return [row[3] for sql in seen for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}")]


def test_no_list_scans_or_sorts_the_jobs(connection: sqlite3.Connection) -> None:
    for number in range(20):
        insert(connection, list(JobStatus)[number % 9].value, f"j{number}")
    calls = {
        "reserved": lambda: jobs.reserved(connection),
        "active": lambda: jobs.active(connection),
        "page of one": lambda: jobs.page(connection, [JobStatus.CLEANED], 50, None),
        "page of some": lambda: jobs.page(connection, list(ACTIVE), 50, 7),
        "ended": lambda: jobs.ended(connection, datetime.now(UTC), 50, "log"),
        "get": lambda: jobs.get(connection, "j1"),
        "known": lambda: jobs.known(connection, ["j1", "j2"]),
    }
    for name, call in calls.items():
        steps = plan(connection, call)
        scans = [step for step in steps if re.match(r"SCAN jobs(?! USING)", step)]
        assert not scans, (name, steps)
    assert any("COVERING INDEX jobs_active" in s for s in plan(connection, calls["reserved"]))
    assert any("INDEX jobs_reapable" in s for s in plan(connection, calls["ended"]))
    assert not any("TEMP B-TREE" in s for s in plan(connection, calls["page of one"]))


def test_totals_begin_with_what_an_older_database_has_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "old.db"
    with monkeypatch.context() as older:
        older.setattr(migrations, "STEPS", STEPS[:1])
        migrate(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for job_id, status, error, ended in (
            ("j1", "completed", None, "completed"),
            ("j2", "cleaned", "oom_killed", "failed"),
            ("j3", "failed", None, "failed"),
            ("j4", "failed", "Somebody wrote this", "failed"),
            ("j5", "running", None, None),
        ):
            insert(connection, status, job_id)
            connection.execute("UPDATE jobs SET error = ? WHERE id = ?", (error, job_id))
            for to_status in ("pending", "running", ended):
                if to_status:
                    connection.execute(
                        "INSERT INTO job_events (job_id, to_status, at, why) VALUES (?, ?, ?, '')",
                        (job_id, to_status, AT),
                    )
    migrate(path)
    with closing(connect_reader(path)) as connection:
        found = set(connection.execute("SELECT outcome, reason, n FROM job_totals"))
    assert found == {
        ("created", "", 5),
        ("completed", "", 1),
        ("failed", "oom_killed", 1),
        ("failed", "exit_code", 1),
        ("failed", "other", 1),
    }


def test_the_reasons_of_failures_are_bounded(connection: sqlite3.Connection) -> None:
    for number in range(100):
        insert(connection, "running", f"j{number}")
        connection.execute(
            "UPDATE jobs SET status = 'failed', error = ? WHERE id = ?",
            (f"reason_{number}", f"j{number}"),
        )
    rows = connection.execute("SELECT n FROM job_totals WHERE outcome = 'failed'").fetchall()
    assert len(rows) <= 42
    assert sum(n for (n,) in rows) == 100
