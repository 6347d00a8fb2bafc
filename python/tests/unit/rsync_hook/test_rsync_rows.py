"""The rsync hook and the rows: what it adopts, records, refuses and forgets."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from rsync_hook_rig import BOUND, ID, OWNER, PAST, ROOT, A, add_upload, opened, query, request

from flashpods import rsync_record
from flashpods.rsync_record import transaction


def run(database: Path, when: str, *options: str, **env: str) -> tuple[int, str]:
    """Run the hook as rsync does; this process is its RSYNC_PID."""
    given = request("--server", A, ".", f"/{ID}/", RSYNC_PID=str(os.getpid()))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "flashpods.rsync_hook", when, "--database", database),
            *("--no-watch", *options),
        ],  # what called is pytest, no transfer
        env={**os.environ, **given, "RSYNC_MODULE_PATH": str(database.parent.parent), **env},
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=False,
    )
    return done.returncode, done.stdout.strip()


def test_pre_adopts_an_unknown_upload_and_post_forgets_the_transfer(
    database: Path, place: Path
) -> None:
    tree = place / ID
    (tree / "sub").mkdir(parents=True)
    (tree / "a").write_bytes(b"x" * 1000)
    (tree / "sub" / "b").write_bytes(b"x" * 234)
    (tree / "away").symlink_to("/etc")
    began = time.monotonic()
    assert run(database, "pre", "--expires-seconds", "600") == (0, "")
    took = time.monotonic() - began
    ((state, seconds),) = query(
        database,
        "SELECT state, 86400 * (julianday(expires_at) - julianday(created_at)) FROM uploads",
    )
    assert state == "uploading"
    assert 599.9 < float(str(seconds)) < 600.1 + took  # it looks at the clock for each
    pids = {row[0] for row in query(database, "SELECT pid FROM transfers")}
    assert os.getpid() in pids
    code, said = run(database, "pre")
    assert (code, said) == (1, f"another transfer writes to {ID}; wait for it to end")
    assert run(database, "post") == (0, "")
    assert query(database, "SELECT * FROM transfers") == []
    assert query(database, "SELECT size_bytes FROM uploads") == [(1000 + 234 + len("/etc"),)]
    assert run(database, "pre") == (0, "")
    if ROOT:
        assert {file.stat().st_uid for file in database.parent.iterdir()} <= {OWNER, 0}
        assert database.stat().st_uid == OWNER


REFUSALS = [
    ({"state": "finalized"}, "is finalized"),
    ({"state": "consumed"}, "is consumed"),
    ({"state": "expired"}, "has expired"),
    ({"expires_at": PAST}, "has expired"),
    ({"finalizing_at": PAST}, "is being finalized"),
    ({"size_bytes": 101}, "holds 101 bytes, the limit is 100"),
]


@pytest.mark.parametrize(("columns", "said"), REFUSALS)
def test_pre_refuses_by_the_row_and_changes_nothing(
    database: Path, columns: dict[str, str], said: str
) -> None:
    add_upload(database, **columns)
    before = query(database, "SELECT * FROM uploads")
    code, line = run(database, "pre", "--max-bytes", "100")
    assert code == 1
    assert said in line
    assert "\n" not in line
    assert query(database, "SELECT * FROM uploads") == before
    assert query(database, "SELECT * FROM transfers") == []


def test_pre_refuses_when_all_uploads_hold_the_quota(database: Path) -> None:
    add_upload(database, "finalized", id="upload_number_one", size_bytes=60)
    add_upload(database, id="upload_number_two", size_bytes=40)
    add_upload(database, "consumed", id="upload_number_old", size_bytes=10**9)
    code, line = run(database, "pre", "--total-bytes", "100")
    assert (code, line.partition(";")[0]) == (1, "uploads hold 100 bytes, the limit is 100")
    assert query(database, "SELECT id FROM uploads WHERE id = ?", ID) == []
    assert run(database, "pre", "--total-bytes", "101") == (0, "")


def test_a_dead_transfer_stops_nobody(database: Path) -> None:
    add_upload(database)
    query(database, "INSERT INTO transfers VALUES (?, 1, ?, 1, ?)", ID, os.getpid(), PAST)
    assert run(database, "pre") == (0, "")
    assert query(database, "SELECT * FROM transfers WHERE start_ticks = 1") == []


@pytest.mark.parametrize("pid", ["", "x", "1", "999999999"])
def test_only_the_daemon_that_called_counts(database: Path, pid: str) -> None:
    code, line = run(database, "pre", RSYNC_PID=pid)
    assert code == 1
    assert "RSYNC_PID" in line
    assert query(database, "SELECT * FROM uploads") == []


def test_without_a_database_nothing_begins(place: Path) -> None:
    path = place / "db" / "absent.db"
    code, line = run(path, "pre")
    assert (code, line) == (1, "the host can't record the transfer now; try again")
    assert not path.exists()


def test_a_locked_database_refuses_in_time(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rsync_record, "BUSY_SECONDS", 0.05)
    with closing(opened(database)) as other:
        other.execute("BEGIN IMMEDIATE")
        with (
            pytest.raises(sqlite3.OperationalError, match="locked"),
            transaction(database),
        ):
            pytest.fail("the transaction must not begin")


def test_the_hook_starts_without_heavy_imports() -> None:
    code = (
        "import sys, flashpods.rsync_hook;"
        "heavy = {'pydantic', 'sqlite_utils', 'fastapi', 'asyncio'};"
        "assert not heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=BOUND)
