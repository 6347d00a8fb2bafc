"""Experiments 8 to 14: disks that are full, fail, lose what was not synced, or lie."""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import shutil
import sqlite3
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from faultboard import RigFactory, Score, extent
from rig import Rig

from flashpods_dev.machine import UID
from flashpods_dev.stack import StackError

pytestmark = pytest.mark.timeout(900)  # a busy machine needs more than the usual two minutes

MIB = 1024**2


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


async def post_some(rig: Rig, count: int) -> list[int]:
    """POST small jobs one after the other and return the statuses; the accepted are remembered."""
    statuses = []
    for _ in range(count):
        body = {"type": "worker", "command": "true", "cpus": 1, "memory_gb": 1}
        answer = await rig.ask("POST", "/jobs", json=body)
        assert answer is not None, f"the API died: {rig.stack.api.tail()}"
        statuses.append(answer.status_code)
        if answer.status_code == 201:
            rig.jobs.add(answer.json()["job_id"])
    return statuses


async def healed(rig: Rig, score: Score, *, ended: bool = True) -> None:
    """Once the fault is gone: a job runs through, within the contract's time all is in order."""
    begun = time.monotonic()
    answer = None
    while answer is None and time.monotonic() - begun < rig.slack(10):
        answer = await rig.count()
        await asyncio.sleep(0.05)
    job_id = await rig.must(answer)
    assert (await rig.ended(job_id))["status"] == "completed"
    took = await rig.recovered(begun) if ended else time.monotonic() - begun
    score.judge(await rig.verdict(took), took, rig)


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
            for job_id in sorted(rig.jobs):
                row = await rig.ended(job_id)
                if row["status"] == "failed":
                    score.notes.append(f"{part}: {row['error']}")
                    rig.excused |= {job_id}
            score.notes[:] = sorted(set(score.notes))
            if part == "capture":
                rig.lines.pop(running)  # what conmon could not write was never captured
            await rig.recovered(begun)
            await healed(rig, score)
    score.settle()


# ------------------------------------------------------------------ 11, 12


async def unhealthy(rig: Rig, seconds: float = 4) -> None:
    """Return once health names the database; a look is shared for a second."""
    end = time.monotonic() + rig.slack(seconds)
    while True:
        answer = await rig.client.get("/health")
        failing = answer.json()["checks"]["database"]["status"] == "failing"
        if failing and answer.status_code == 503:
            return
        assert time.monotonic() < end, f"health does not know: {answer.text[:100]}"
        await asyncio.sleep(0.1)


@pytest.mark.experiment(11, "EIO on fsync of the database")
async def test_eio_on_fsync(rig: Rig, score: Score, shim: Path) -> None:
    flag = rig.stack.layout.root / "eio"
    env = {"LD_PRELOAD": str(shim), "SHIM_PATH": "/db/flashpods.db", "SHIM_EIO": str(flag)}
    await rig.restart(env=env)
    await rig.bystander()
    for _ in range(extent(10, 2, 1)):
        with score.trial():
            running = await rig.must(await rig.count(pause=0.02))
            async with rig.readers():
                flag.touch()
                try:
                    statuses = await post_some(rig, 4)
                    assert set(statuses) == {503}, f"acknowledged or wrong: {statuses}"
                    await unhealthy(rig)
                finally:
                    flag.unlink()
                await rig.ended(running)
                await healed(rig, score)
    assert "a transaction of" in rig.stack.api.log.read_text()
    await rig.dismiss()
    score.settle()


@pytest.mark.experiment(12, "power cut: only what was synced survives")
async def test_power_cut(rig: Rig, score: Score, shim: Path) -> None:
    """What was acknowledged before the cut is in what fsync had put on the disk until then."""
    kept = rig.stack.layout.root / "kept"
    kept.mkdir()
    os.chown(kept, UID, UID)
    env = {"LD_PRELOAD": str(shim), "SHIM_PATH": "/db/flashpods.db", "SHIM_KEEP": str(kept)}
    await asyncio.to_thread(rig.stack.api.terminate)
    shutil.copy(rig.stack.layout.database, kept)  # what the shim has not seen being synced
    await rig.start(env=env)
    chance = random.Random(4)
    stop = asyncio.Event()

    async def post() -> None:
        while not stop.is_set():
            job_id = await rig.post("true")
            if job_id is not None and chance.random() < 0.3:
                await rig.ask("DELETE", f"/jobs/{job_id}")
            await rig.upload(finalize=False)

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(post())
        for number in range(extent(100, 12, 6)):
            await asyncio.sleep(chance.uniform(0.05, 0.4))
            with score.trial(f"cut {number}"):
                jobs, uploads = set(rig.jobs), set(rig.uploads)
                copy = rig.stack.layout.root / "cut"
                await asyncio.to_thread(cut, kept, copy)
                found_jobs, found_uploads, integrity = await asyncio.to_thread(revive, copy)
                assert integrity == "ok", integrity
                assert jobs <= found_jobs, f"{len(jobs - found_jobs)} acknowledged jobs lost"
                assert uploads <= found_uploads, f"{len(uploads - found_uploads)} uploads lost"
        stop.set()
    began = time.monotonic()
    score.judge(await rig.verdict(await rig.recovered(began)), None, rig)
    score.settle()


def cut(kept: Path, copy: Path) -> None:
    """Copy what is on the disk at one moment: the lock is the one that the shim takes."""
    shutil.rmtree(copy, ignore_errors=True)
    lock = os.open(kept, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        shutil.copytree(kept, copy, ignore=shutil.ignore_patterns(".new"))
    finally:
        os.close(lock)


def revive(copy: Path) -> tuple[set[str], set[str], str]:
    with closing(sqlite3.connect(copy / "flashpods.db")) as connection:
        jobs = {i for (i,) in connection.execute("SELECT id FROM jobs")}
        uploads = {i for (i,) in connection.execute("SELECT id FROM uploads")}
        return jobs, uploads, str(connection.execute("PRAGMA integrity_check").fetchone()[0])


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
