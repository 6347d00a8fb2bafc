"""Backups of a real database: taken while it is written to, proved, packed, bounded."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from backup_rig import NOW, settings_in, submit

from flashpods.adapters.sqlite import copies
from flashpods.adapters.sqlite.copies import CopyError
from flashpods.adapters.sqlite.migrations import STEPS
from flashpods.adapters.sqlite.store import SqliteStore
from flashpods.admin.backups import files, packing, status
from flashpods.admin.backups.make import Made, make
from flashpods.config import Settings


def listing(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def jobs_in(path: Path) -> int:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        return int(connection.execute("SELECT count(*) FROM jobs").fetchone()[0])


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path)


@pytest.fixture
def small() -> Iterator[Callable[[Path, str], None]]:
    """Mount a small file system; needs the root and the namespaces of ./dev test."""
    made: list[Path] = []

    def mount(path: Path, size: str) -> None:
        path.mkdir(parents=True)
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "small", str(path)],
            check=True,
            timeout=20,
        )
        made.append(path)

    yield mount
    for path in made:
        subprocess.run(["umount", "--lazy", str(path)], check=False, timeout=20)


async def test_a_backup_is_the_database_of_its_moment(settings: Settings) -> None:
    async with await SqliteStore.open(settings.paths.database) as store:
        await submit(store, *range(20))
        made = make(settings, now=NOW)
        await submit(store, 20)  # the store goes on
    assert made.file.name == "db-20261126.db"
    assert made.file.stat().st_mode & 0o777 == 0o600
    assert jobs_in(made.file) == made.examined.jobs == 20
    assert listing(settings.backup.directory) == ["db-20261126.db", "status.json"]
    with closing(sqlite3.connect(made.file)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)


async def test_writers_go_on_while_it_is_taken(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy shows the state of its first moment, however much is written meanwhile."""
    monkeypatch.setattr(copies, "PAGES", 1)
    async with await SqliteStore.open(settings.paths.database) as store:
        await submit(store, *range(200), context="c" * 2000)
        task = asyncio.create_task(asyncio.to_thread(make, settings, now=NOW))
        number = 200
        while not task.done():
            await submit(store, number, context="c" * 2000)
            number += 1
        made = await task
        assert 200 <= made.examined.jobs < number
        assert (await store.reserved()).jobs == number
    assert made.examined.problems == []


async def test_the_status_says_what_monitoring_needs(settings: Settings) -> None:
    async with await SqliteStore.open(settings.paths.database) as store:
        await submit(store, 1)
    made = make(settings, now=NOW)
    said = json.loads((settings.backup.directory / "status.json").read_text())
    assert said == {
        "version": 1,
        "finished_at": said["finished_at"],
        "ok": True,
        "error": None,
        "message": None,
        "duration_seconds": said["duration_seconds"],
        "file": "db-20261126.db",
        "size_bytes": made.size_bytes,
        "files_size_bytes": None,
        "schema": len(STEPS),
        "jobs": 1,
        "warnings": [],
        "last_success_at": said["finished_at"],
        "last_success_size_bytes": made.size_bytes,
    }
    ended = datetime.fromisoformat(said["finished_at"])
    assert NOW <= ended <= NOW + timedelta(seconds=60)
    assert (settings.backup.directory / "status.json").stat().st_mode & 0o777 == 0o644


async def test_earlier_days_are_packed_and_the_oldest_go(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, daily=3, weekly=0)
    async with await SqliteStore.open(settings.paths.database) as store:
        await submit(store, *range(30))
        for day in range(5):
            make(settings, now=NOW + timedelta(days=day))
        again = make(settings, now=NOW + timedelta(days=4))
    assert listing(settings.backup.directory) == [
        "db-20261128.db.zst",
        "db-20261129.db.zst",
        "db-20261130.db",
        "status.json",
    ]
    assert (again.packed, again.deleted) == ([], [])
    unpacked = tmp_path / "unpacked.db"
    packing.unpack(settings.backup.directory / "db-20261128.db.zst", unpacked)
    assert jobs_in(unpacked) == 30
    # zstd(1) is what an operator has at hand, and it must agree.
    packed = settings.backup.directory / "db-20261128.db.zst"
    assert packed.read_bytes()[:4] == b"\x28\xb5\x2f\xfd"
    assert packed.stat().st_size < unpacked.stat().st_size / 2


async def test_a_damaged_database_replaces_no_good_backup(settings: Settings) -> None:
    async with await SqliteStore.open(settings.paths.database) as store:
        await submit(store, *range(300))
    good = make(settings, now=NOW)
    content = good.file.read_bytes()
    with settings.paths.database.open("r+b") as file:
        file.seek(5 * 4096)
        file.write(b"\xff" * 8192)
    with pytest.raises(CopyError) as refused:
        make(settings, now=NOW)
    assert refused.value.code == "damaged"
    assert good.file.read_bytes() == content
    assert listing(settings.backup.directory) == ["db-20261126.db", "status.json"]
    said = status.read(settings.backup.directory)
    assert said is not None
    assert (said.ok, said.error, said.last_success_size_bytes) == (False, "damaged", len(content))
    assert said.last_success is not None


async def test_a_full_disk_leaves_what_was_there(
    tmp_path: Path, small: Callable[[Path, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_in(tmp_path)
    small(settings.backup.directory, "40m")
    async with await SqliteStore.open(settings.paths.database) as store:
        await submit(store, 1)
        make(settings, now=NOW)
        before = (settings.backup.directory / "db-20261126.db").read_bytes()
        filler = settings.backup.directory / "filler"
        filler.write_bytes(b"\0" * 25 * 1024**2)
        with pytest.raises(CopyError) as refused:  # it does not even begin
            make(settings, now=NOW)
        assert refused.value.code == "disk_full"
        assert "MB free" in str(refused.value)
        # It was there when we looked, and then went: SQLite itself finds the disk full.
        monkeypatch.setattr("flashpods.admin.backups.make.need_room", lambda *_: None)
        fill(filler)
        with pytest.raises(CopyError) as refused:
            make(settings, now=NOW)
        assert refused.value.code == "disk_full"
    assert listing(settings.backup.directory) == ["db-20261126.db", "filler", "status.json"]
    assert (settings.backup.directory / "db-20261126.db").read_bytes() == before


def fill(path: Path) -> None:
    with path.open("ab", buffering=0) as file:
        for size in (1024**2, 4096):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue


async def test_two_at_once_and_what_a_crash_left(settings: Settings) -> None:
    async with await SqliteStore.open(settings.paths.database) as store:
        await submit(store, 1)
    make(settings, now=NOW)
    left = settings.backup.directory / ".new-db-20261125.db"
    left.touch()
    other = settings.backup.directory / "mine.txt"
    other.touch()
    made: list[Made] = []
    original = copies.copy

    def copy(source: Path, target: Path, *, seconds: float) -> None:
        with pytest.raises(CopyError) as refused:
            make(settings, now=NOW)
        assert refused.value.code == "in_use"
        original(source, target, seconds=seconds)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copies, "copy", copy)
        made.append(make(settings, now=NOW))
    assert made
    assert not left.exists()
    assert other.exists()


def test_without_a_database_it_says_which_setting(settings: Settings) -> None:
    with pytest.raises(CopyError, match=r"paths\.database"):
        make(settings, now=NOW)
    said = status.read(settings.backup.directory)
    assert said is not None
    assert (said.ok, said.last_success_at) == (False, None)


async def test_a_copy_has_a_deadline(settings: Settings) -> None:
    async with await SqliteStore.open(settings.paths.database) as store:
        await submit(store, *range(50))
    target = settings.paths.database.with_name("copy.db")
    with pytest.raises(CopyError) as refused:
        copies.copy(settings.paths.database, target, seconds=-1)
    assert refused.value.code == "timeout"
    assert not target.exists()


@pytest.fixture
def with_files(tmp_path: Path) -> Settings:
    settings = settings_in(tmp_path, artifacts=True, logs=True)
    job = settings.paths.artifacts / "j1"
    (job / "site" / "css").mkdir(parents=True)
    (job / "report.txt").write_text("42")
    (job / "site" / "css" / "main.css").write_bytes(b"\0" * 100_000)
    staging = settings.paths.artifacts / ".staging" / "j2"
    staging.mkdir(parents=True)
    (staging / "half").write_text("a job still writes this")
    (settings.paths.logs / "j1.log").write_text("[12:00:00.000] hello\n")
    return settings


async def test_artifacts_and_logs_by_option(with_files: Settings) -> None:
    settings = with_files
    async with await SqliteStore.open(settings.paths.database) as store:
        await submit(store, 1)
    made = make(settings, now=NOW)
    assert made.files is not None
    assert made.files.name == "files-20261126.tar.zst"
    there = set(packed_names(made.files))
    assert there == {
        "artifacts/j1/report.txt",
        "artifacts/j1/site/css/main.css",
        "logs/j1.log",
    }
    assert made.files_size_bytes == made.files.stat().st_size < 10_000


def packed_names(path: Path) -> list[str]:
    raw = path.with_suffix(".check")
    packing.unpack(path, raw)
    with tarfile.open(raw) as found:
        return found.getnames()


async def test_files_come_back_and_nothing_is_overwritten(with_files: Settings) -> None:
    settings, paths = with_files, with_files.paths
    async with await SqliteStore.open(paths.database) as store:
        await submit(store, 1)
    made = make(settings, now=NOW)
    assert made.files is not None
    (paths.artifacts / "j1" / "report.txt").write_text("newer")
    (paths.logs / "j1.log").unlink()
    (paths.artifacts / "j1" / "site" / "css" / "main.css").unlink()
    trees = files.trees_of(paths.artifacts, paths.logs)
    assert files.extract(made.files, trees) == 2
    assert files.extract(made.files, trees) == 0
    assert (paths.artifacts / "j1" / "report.txt").read_text() == "newer"
    assert (paths.logs / "j1.log").read_text() == "[12:00:00.000] hello\n"
    css = paths.artifacts / "j1" / "site" / "css" / "main.css"
    assert css.read_bytes() == b"\0" * 100_000


@pytest.mark.parametrize("cut", [3, 40, -1])
async def test_a_cut_archive_is_named(with_files: Settings, cut: int, tmp_path: Path) -> None:
    async with await SqliteStore.open(with_files.paths.database) as store:
        await submit(store, 1)
    made = make(with_files, now=NOW)
    assert made.files is not None
    damaged = tmp_path / "cut.tar.zst"
    damaged.write_bytes(made.files.read_bytes()[:cut])
    (empty := tmp_path / "empty").mkdir()
    with pytest.raises(CopyError) as refused:
        files.extract(damaged, files.trees_of(empty, empty))
    assert refused.value.code == "damaged"
    assert listing(empty) == []


def test_an_archive_that_leads_out_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "evil.tar.zst"
    with (
        packing.packed_sink(path, level=1) as sink,
        tarfile.open(fileobj=sink, mode="w|") as out,
    ):
        out.addfile(tarfile.TarInfo("artifacts/../../outside"))
    (tmp_path / "artifacts").mkdir()
    with pytest.raises(CopyError) as refused:
        files.extract(path, {"artifacts": tmp_path / "artifacts"})
    assert refused.value.code == "damaged"
    assert not (tmp_path / "outside").exists()
    assert not (tmp_path.parent / "outside").exists()
