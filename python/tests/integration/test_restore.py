"""Restoring: what is refused, what is kept aside, and that a crash at any step loses nothing."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from backup_rig import NOW, settings_in, submit

from flashpods.adapters.sqlite import copies, migrations, swap
from flashpods.adapters.sqlite.copies import CopyError
from flashpods.adapters.sqlite.migrations import SchemaError, migrate
from flashpods.adapters.sqlite.store import SqliteStore
from flashpods.admin.backups import restore as work
from flashpods.admin.backups.make import make
from flashpods.admin.command import AdminError
from flashpods.config import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path)


async def filled(settings: Settings, *numbers: int) -> None:
    async with await SqliteStore.open(settings.paths.database) as store:
        await submit(store, *numbers)


async def count(path: Path) -> int:
    async with await SqliteStore.open(path) as store:
        return (await store.page(statuses=None, limit=1, cursor=None)).total


def restore(settings: Settings, file: Path, *, with_files: bool = False) -> work.Restored:
    target = work.Target(settings=settings, file=file, with_files=with_files, units=None)
    return work.restore(target, now=NOW, say=lambda _: None)


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


async def test_the_former_database_is_kept_aside(settings: Settings) -> None:
    await filled(settings, *range(3))
    backup = make(settings, now=NOW).file
    await filled(settings, *range(3, 10))
    done = restore(settings, backup)
    database = settings.paths.database
    assert (done.examined.jobs, done.verified_by) == (3, "a check of the database")
    assert await count(database) == 3
    assert await count(done.aside / database.name) == 10
    assert done.aside.name == "before-restore-20261126T020000Z"
    assert names(database.parent) == {"flashpods.db", done.aside.name}
    assert database.stat().st_mode & 0o777 == 0o600


async def test_a_packed_backup_and_a_lost_database(settings: Settings) -> None:
    await filled(settings, *range(4))
    make(settings, now=NOW)
    make(settings, now=NOW + timedelta(days=1))
    settings.paths.database.unlink()
    file = work.locate(settings, "db-20261126.db.zst")
    restore(settings, file)
    assert await count(settings.paths.database) == 4


async def test_artifacts_and_logs_of_that_day(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, artifacts=True, logs=True)
    await filled(settings, 1)
    log = settings.paths.logs / "j1.log"
    log.write_text("[12:00:00.000] x\n")
    backup = make(settings, now=NOW).file
    log.unlink()
    assert restore(settings, backup, with_files=True).files == 1
    assert log.read_text() == "[12:00:00.000] x\n"


async def test_ended_jobs_whose_files_did_not_come_back_say_so(settings: Settings) -> None:
    """One of each: both here, neither here, a log that is still being captured, none ever."""
    await filled(settings, *range(5))
    logs, capture, artifacts = (
        settings.paths.logs,
        settings.paths.capture,
        settings.paths.artifacts,
    )
    jobs = [f"j{number:015d}" for number in range(5)]
    at = "2026-11-26T01:00:00.000Z"
    with closing(sqlite3.connect(settings.paths.database)) as database, database:
        database.execute(
            "UPDATE jobs SET status = 'completed', completed_at = ?, started_at = ?"
            " WHERE id NOT IN (?, ?)",
            (at, at, *jobs[3:]),
        )
        database.execute(
            "UPDATE jobs SET status = 'failed', completed_at = ? WHERE id = ?", (at, jobs[3])
        )
        database.executemany(
            "INSERT INTO artifacts (job_id, name, type, size_bytes, created_at)"
            " VALUES (?, 'a', 'file', 1, ?)",
            [(job, at) for job in jobs[:2]],
        )
    backup = make(settings, now=NOW).file
    (logs / f"{jobs[0]}.log").touch()
    (artifacts / jobs[0]).mkdir()
    (capture / jobs[2]).mkdir()
    restore(settings, backup)
    with closing(sqlite3.connect(settings.paths.database)) as database:
        found = database.execute(
            "SELECT id, log_deleted_at, artifacts_deleted_at FROM jobs ORDER BY id"
        ).fetchall()
    then = "2026-11-26T02:00:00.000Z"
    # The fourth never started, and the fifth is yet to.
    assert found == [
        (jobs[0], None, None),
        (jobs[1], then, then),
        *((job, None, None) for job in jobs[2:]),
    ]


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-5000]), "backup_damaged"),
        (lambda path: path.write_text("hello\n" * 1000), "backup_damaged"),
        (lambda path: path.write_bytes(b""), "backup_damaged"),
        (lambda path: pragma(path, "user_version = 77"), "schema_newer"),
    ],
)
async def test_a_bad_backup_changes_nothing(
    settings: Settings, spoil: Callable[[Path], object], code: str
) -> None:
    await filled(settings, *range(50))
    backup = make(settings, now=NOW).file
    spoil(backup)
    before = names(settings.paths.database.parent)
    with pytest.raises(AdminError) as refused:
        restore(settings, backup)
    assert refused.value.code == code
    assert names(settings.paths.database.parent) == before
    assert await count(settings.paths.database) == 50


def pragma(path: Path, text: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA {text}")


def test_what_is_not_there_is_named_with_what_is(settings: Settings) -> None:
    with pytest.raises(AdminError, match="are: none") as refused:
        work.locate(settings, "latest")
    assert refused.value.code == "backup_not_found"


@contextmanager
def user_of(path: Path) -> Iterator[int]:
    """Have another process with the database open."""
    code = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]);"
        "c.execute('SELECT count(*) FROM jobs').fetchone(); print('open', flush=True);"
        "sys.stdin.read(); c.close()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        assert process.stdout.readline() == b"open\n"
        yield process.pid
        process.stdin.close()
        process.wait(60)


async def test_a_database_in_use_is_left_alone(settings: Settings) -> None:
    await filled(settings, *range(2))
    backup = make(settings, now=NOW).file
    with user_of(settings.paths.database) as pid:
        with pytest.raises(AdminError, match=f"process {pid} has") as refused:
            restore(settings, backup)
        assert refused.value.code == "database_in_use"
        assert names(settings.paths.database.parent) <= {
            "flashpods.db",
            "flashpods.db-wal",
            "flashpods.db-shm",
        }
    assert await count(settings.paths.database) == 2


async def test_three_former_databases_are_kept(settings: Settings) -> None:
    await filled(settings, 1)
    backup = make(settings, now=NOW).file
    for hour in range(5):
        target = work.Target(settings=settings, file=backup, with_files=False, units=None)
        work.restore(target, now=NOW + timedelta(hours=hour), say=lambda _: None)
    asides = sorted(p.name for p in settings.paths.database.parent.glob("before-restore-*"))
    assert asides == [f"before-restore-20261126T0{hour}0000Z" for hour in (4, 5, 6)]


# ------------------------------------------------------------------ killed anywhere

STEPS = ("sync", "link", "rename", "replace", "unlink", "mkdir", "write_text")


def die_at(number: int, act: Callable[[], object]) -> bool:
    """Run ``act`` in a fork that is killed before its n-th step; return whether it got through."""
    pid = os.fork()
    if pid:
        _, status = os.waitpid(pid, 0)
        assert os.WIFEXITED(status) or os.WTERMSIG(status) == signal.SIGKILL
        return os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0
    left = [number]

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **named)

        return step

    try:
        steps = [(swap, "sync"), (os, "link"), *((Path, name) for name in STEPS[2:])]
        for owner, name in steps:
            setattr(owner, name, counted(getattr(owner, name)))
        act()
        os._exit(0)
    finally:
        os._exit(3)


def database_with_wal(path: Path, value: int) -> None:
    """Make a database whose last commit is only in its write-ahead log, as a kill leaves it."""
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        return
    try:
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (n)")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("INSERT INTO t VALUES (?)", (value,))
    finally:
        os._exit(0)


def value_in(path: Path) -> int | None:
    with closing(sqlite3.connect(path)) as connection:
        row = connection.execute("SELECT max(n) FROM t").fetchone()
        return None if row is None else row[0]


def plain_database(path: Path, value: int) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE t (n)")
        connection.execute("INSERT INTO t VALUES (?)", (value,))


def test_killed_at_any_step_the_old_is_whole_and_the_new_gets_in(tmp_path: Path) -> None:
    """The invariant: no store opens half of it, repeating ends it, and all of the old is there."""
    reached = 0
    for number in range(1, 40):
        root = tmp_path / str(number)
        root.mkdir()
        path, new = root / "f.db", root / "new.db"
        database_with_wal(path, 1)
        assert (root / "f.db-wal").stat().st_size > 0
        plain_database(new, 2)
        through = die_at(number, partial(swap.swap, path, new, root / "aside1"))
        if through:
            break
        reached = number
        if not swap.interrupted(path):
            assert value_in(path) in (1, 2)  # before it began, or after its end
            continue
        with pytest.raises(SchemaError, match=r"restore of database .* was interrupted"):
            SqliteStore._open(path, 5)
        if not new.exists():
            plain_database(new, 2)
        swap.swap(path, new, root / "aside2")
        assert not swap.interrupted(path)
        assert value_in(path) == 2
        kept = [value_in(copy) for copy in root.glob("aside*/f.db")]
        assert 1 in kept, (number, kept)
    assert reached >= 9


def test_a_swap_that_can_not_begin_leaves_no_mark(tmp_path: Path) -> None:
    path, new = tmp_path / "f.db", tmp_path / "new.db"
    migrate(path)
    migrate(new)
    with user_of(path), pytest.raises(CopyError) as refused:
        swap.swap(path, new, tmp_path / "aside")
    assert refused.value.code == "in_use"
    assert not swap.interrupted(path)
    assert not (tmp_path / "aside").exists()


# ------------------------------------------------------------------ before an upgrade


async def test_an_upgrade_keeps_a_checked_copy_and_tells_the_way_back(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = settings.paths.database
    await filled(settings, *range(5))
    with monkeypatch.context() as newer:
        step = ("9999_next", ("ALTER TABLE jobs ADD COLUMN note TEXT",))
        newer.setattr(migrations, "STEPS", (*migrations.STEPS, step))
        await filled(settings, 5)
        migrate(path)  # repeated: no second copy
    (copy,) = (path.parent / "before-upgrade").iterdir()
    assert copy.name.startswith(f"schema-{len(migrations.STEPS)}-")
    with pytest.raises(SchemaError) as refused:
        await SqliteStore.open(path)
    assert str(refused.value).endswith(f"flashpods-admin restore {copy}")
    restore(settings, copy)
    assert await count(path) == 5


async def test_an_upgrade_without_room_for_the_copy_does_not_happen(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = settings.paths.database
    await filled(settings, 1)
    before = len(migrations.STEPS)
    step = ("9999_next", ("ALTER TABLE jobs ADD COLUMN note TEXT",))
    monkeypatch.setattr(migrations, "STEPS", (*migrations.STEPS, step))

    def full(*_: object, **__: object) -> None:
        raise CopyError("the disk is full; free space on it", "disk_full")

    monkeypatch.setattr(copies, "copy", full)
    with pytest.raises(SchemaError, match="the disk is full; free space"):
        migrate(path)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (before,)


async def test_copies_of_upgrades_are_bounded(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = settings.paths.database
    await filled(settings, 1)
    directory = path.parent / "before-upgrade"
    directory.mkdir()
    for number in range(5):
        (directory / f"schema-1-2025010{number}T000000Z.db").write_bytes(b"old")
    step = ("9999_next", ("ALTER TABLE jobs ADD COLUMN note TEXT",))
    monkeypatch.setattr(migrations, "STEPS", (*migrations.STEPS, step))
    migrate(path)
    assert len(names(directory)) == migrations.KEEP_COPIES
