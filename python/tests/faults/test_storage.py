"""Experiments 8 to 10, 13 and 14: disks that are full, a database that is locked or garbled."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from checker import RECOVERY_SECONDS
from faultboard import RigFactory, Score, extent
from healing import healed, post_some
from rig import Rig

from flashpods_dev.machine import UID
from flashpods_dev.stack import StackError

pytestmark = pytest.mark.timeout(900)  # a busy machine needs more than the usual two minutes

MIB = 1024**2
NO_ROOM = ("insufficient_storage", "artifact_copy_failed")  # how a job may fail on a full disk


@pytest.fixture
def mounts() -> Iterator[Callable[..., None]]:
    """Return a function that mounts a small tmpfs; what it mounted goes at the end."""
    made: list[Path] = []

    def mount(path: Path, options: str) -> None:
        path.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", options, "flashpods-small", str(path)]
        subprocess.run(command, check=True, timeout=60)
        made.append(path)

    yield mount
    for path in made:
        subprocess.run(["umount", "--lazy", str(path)], check=False, timeout=60)


def fill(directory: Path) -> Path:
    """Fill a file system to its last byte; return the file to remove."""
    path = directory / "filler"
    with path.open("wb", buffering=0) as file, suppress(OSError):
        for size in (MIB, 4096, 1):
            with suppress(OSError):
                while file.write(b"\0" * size):
                    pass
    return path


def use_inodes(directory: Path) -> Path:
    """Use up a file system's inodes; return the directory to remove."""
    path = directory / "many"
    path.mkdir()
    with suppress(OSError):
        for number in range(100_000):
            (path / str(number)).touch()
    return path


# ------------------------------------------------------------------ 8


@pytest.mark.experiment(8, "database on a full file system")
async def test_database_on_a_full_disk(
    rig_of: RigFactory, score: Score, mounts: Callable[..., None]
) -> None:
    def small(rig: Rig) -> None:
        mounts(rig.stack.layout.database.parent, f"size=3m,uid={UID},mode=755")

    rig = await rig_of(before=small)
    with score.trial():
        await rig.bystander()
        running = await rig.must(await rig.count(pause=0.05))
        await rig.until(running, "running")
        async with rig.readers():
            filler = await asyncio.to_thread(fill, rig.stack.layout.database.parent)
            statuses: list[int] = []
            end = time.monotonic() + rig.slack(30)
            while statuses.count(507) < 5 and time.monotonic() < end:
                statuses += await post_some(rig, 5)
            assert set(statuses) <= {201, 429, 507}, sorted(set(statuses))
            assert statuses.count(507) >= 5, "the database was never full"
            await asyncio.sleep(2)  # the running job ends while its end can't be written
            filler.unlink()
            await healed(rig, score)
        await rig.dismiss()
    score.settle()


# ------------------------------------------------------------------ 9, 10


@pytest.mark.parametrize(
    "part",
    [
        "artifacts",
        *(pytest.param(p, marks=pytest.mark.faults_full) for p in ("joblogs", "capture")),
    ],
)
@pytest.mark.experiment(9, "logs and artifacts on a full file system")
async def test_output_on_a_full_disk(
    rig_of: RigFactory, score: Score, mounts: Callable[..., None], part: str
) -> None:
    """Jobs run on, the API stays; what could be captured is captured once there is room again."""
    await starve(rig_of, score, mounts, part, "size=4m", fill)


@pytest.mark.parametrize(
    "part",
    [
        "trees/work",
        *(
            pytest.param(p, marks=pytest.mark.faults_full)
            for p in ("joblogs", "capture", "artifacts")
        ),
    ],
)
@pytest.mark.experiment(10, "out of inodes")
async def test_out_of_inodes(
    rig_of: RigFactory, score: Score, mounts: Callable[..., None], part: str
) -> None:
    await starve(rig_of, score, mounts, part, "nr_inodes=60", use_inodes)


async def starve(  # noqa: PLR0917 - called twice, just above
    rig_of: RigFactory,
    score: Score,
    mounts: Callable[..., None],
    part: str,
    options: str,
    exhaust: Callable[[Path], Path],
) -> None:
    # The three trees are one mount, or the API refuses to start: so the whole of it is small.
    place = Path(part.split("/", maxsplit=1)[0])

    def small(rig: Rig) -> None:
        mounts(rig.stack.layout.root / place, f"{options},uid={UID},mode=755")

    # The gauge refuses jobs on a full disk; here they are to meet it themselves.
    thresholds = dict.fromkeys(("warn_percent", "critical_percent", "guard_percent"), 100)
    rig = await rig_of({"disk": thresholds}, before=small)
    with score.trial(part):
        running = await rig.must(await rig.count(100, 0.05))
        await rig.until(running, "running")
        async with rig.readers():
            used = await asyncio.to_thread(exhaust, rig.stack.layout.root / place)
            statuses = await post_some(rig, 3)
            assert set(statuses) <= {201, 429, 503, 507}, statuses
            await asyncio.sleep(1.5)
            assert rig.stack.api.alive
            used.unlink() if used.is_file() else shutil.rmtree(used)
            # Jobs that met the fault may have failed by it, but they must have ended.
            begun = time.monotonic()
            took = await rig.recovered(begun)
            score.judge([], took)
            for job_id in sorted(rig.jobs):
                row = await rig.ended(job_id)
                if row["status"] == "failed":
                    assert row["error"] in NO_ROOM, row
                    score.notes.append(f"{part}: {row['error']}")
                    rig.excused |= {job_id}
            score.notes[:] = sorted(set(score.notes))
            if part == "capture":
                rig.lines.pop(running)  # what conmon could not write was never captured
            assert took < rig.slack(RECOVERY_SECONDS), f"recovered only after {took:.1f} s"
            await healed(rig, score)
    score.settle()


# ------------------------------------------------------------------ 13


@pytest.mark.experiment(13, "a foreign write lock for 30 s (less unless --full)")
async def test_foreign_write_lock(rig: Rig, score: Score) -> None:
    with score.trial():
        await rig.bystander()
        running = await rig.must(await rig.count(pause=0.03))
        await rig.until(running, "running")
        lock = sqlite3.connect(rig.stack.layout.database, isolation_level=None)
        async with rig.readers():
            with closing(lock):
                lock.execute("BEGIN IMMEDIATE")
                end = time.monotonic() + extent(30, 7, 2)
                while time.monotonic() < end:
                    begun = time.monotonic()
                    (status,) = await post_some(rig, 1)
                    took = time.monotonic() - begun
                    assert status == 503, status
                    assert took < rig.slack(16), f"a refusal took {took:.1f} s"
                lock.execute("ROLLBACK")
            begun = time.monotonic()
            assert (await rig.ended(running, rig.slack(10)))["status"] == "completed"
            took = await rig.recovered(begun)
            score.judge(await rig.verdict(took), took, rig)
        await rig.dismiss()
    score.settle()


# ------------------------------------------------------------------ 14


def overwrite(path: Path, at: int, size: int = 64) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(os.urandom(size))


def garble_header(database: Path) -> None:
    overwrite(database, 0)


def garble_page(database: Path) -> None:
    """Every page but the first, at its beginning, where its type and its cells' places are."""
    for at in range(4096, database.stat().st_size, 4096):
        overwrite(database, at)


def garble_wal_header(database: Path) -> None:
    overwrite(database.with_name("flashpods.db-wal"), 4)


def garble_wal_middle(database: Path) -> None:
    """A frame before the last commit."""
    wal = database.with_name("flashpods.db-wal")
    (page,) = struct.unpack(">I", wal.read_bytes()[8:12])
    frames = (wal.stat().st_size - 32) // (page + 24)
    assert frames > 4
    overwrite(wal, 32 + (frames // 2) * (page + 24) + 500)


def truncate(database: Path) -> None:
    os.truncate(database, database.stat().st_size // 2)


@pytest.mark.parametrize(
    "damage",
    [
        garble_page,
        garble_wal_middle,
        pytest.param(garble_header, marks=pytest.mark.faults_full),
        pytest.param(garble_wal_header, marks=pytest.mark.faults_full),
        pytest.param(truncate, marks=pytest.mark.faults_full),
    ],
)
@pytest.mark.experiment(14, "a garbled database or WAL")
async def test_garbled(rig: Rig, score: Score, damage: Callable[[Path], None]) -> None:
    with score.trial(damage.__name__):
        for _ in range(6):
            await rig.must(await rig.post("true"))
        await rig.recovered(time.monotonic())
        if "wal" not in damage.__name__:
            await asyncio.to_thread(rig.stack.api.terminate)
        await asyncio.to_thread(rig.stack.api.kill)
        database = rig.stack.layout.database
        whole = {p: p.read_bytes() for p in database.parent.iterdir() if "-shm" not in p.name}
        damage(database)
        already = rig.stack.api.log.stat().st_size
        with pytest.raises(StackError, match="ended at its start"):
            await rig.start()
        (line,) = rig.stack.api.log.read_text()[already:].splitlines()
        assert "flashpods-admin restore FILE" in line, line
        assert str(database) in line
        # Nothing of the evidence is changed by the refusal; here it is put back by hand.
        for file in database.parent.iterdir():
            file.unlink()
        for path, data in whole.items():
            path.write_bytes(data)
            os.chown(path, UID, UID)
        begun = time.monotonic()
        await rig.start()
        took = await rig.recovered(begun)
        score.judge(await rig.verdict(took), took, rig)
    score.settle()
