"""Experiments 11 and 12: disks that fail to sync, or lose what was not synced."""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import shutil
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from faultboard import Score, extent
from healing import healed, post_some
from rig import Rig

from flashpods_dev.machine import UID

pytestmark = pytest.mark.timeout(900)  # a busy machine needs more than the usual two minutes

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


async def refused_all(rig: Rig, job_id: str, upload: str | None) -> None:
    """What else the API acknowledges by a commit it refuses as well."""
    for method, path in (
        ("DELETE", f"/jobs/{job_id}"),
        ("POST", "/uploads"),
        ("POST", f"/uploads/{upload}/finalize"),
        ("DELETE", f"/uploads/{upload}"),
    ):
        answer = await rig.ask(method, path, **({"json": {}} if path == "/uploads" else {}))
        assert answer is not None, f"the API died: {rig.stack.api.tail()}"
        assert answer.status_code == 503, f"{method} {path}: {answer.status_code} {answer.text}"


@pytest.mark.experiment(11, "EIO on fsync of the database")
async def test_eio_on_fsync(rig: Rig, score: Score, shim: Path) -> None:
    flag = rig.stack.layout.root / "eio"
    env = {"LD_PRELOAD": str(shim), "SHIM_PATH": "/db/flashpods.db", "SHIM_EIO": str(flag)}
    await rig.restart(env=env)
    await rig.bystander()
    for _ in range(extent(10, 2, 1)):
        with score.trial():
            upload = await rig.upload(finalize=False)
            running = await rig.must(await rig.count(200, pause=0.02))
            await rig.until(running, "running")
            async with rig.readers():
                flag.touch()
                try:
                    statuses = await post_some(rig, 4)
                    assert set(statuses) == {503}, f"acknowledged or wrong: {statuses}"
                    await unhealthy(rig)
                    await refused_all(rig, running, upload)
                finally:
                    flag.unlink()
                begun = time.monotonic()
                row = await rig.ended(running)
                assert row["status"] == "completed", row
                took = await rig.recovered(begun)
                score.judge(await rig.verdict(took, again=False), took, rig)
                await healed(rig, score)
                assert await rig.ask("DELETE", f"/uploads/{upload}")
    assert "a transaction of" in rig.stack.api.log.read_text()
    await rig.dismiss()
    score.settle()


@pytest.mark.parametrize("part", ["artifacts", "joblogs"])
@pytest.mark.experiment(11, "EIO on fsync of artifacts and logs")
async def test_eio_on_fsync_of_output(rig: Rig, score: Score, shim: Path, part: str) -> None:
    """Whose artifacts are in doubt has failed; whose log is says so, and has it whole later."""
    root = rig.stack.layout.root
    flag = root / "eio"
    env = {"LD_PRELOAD": str(shim), "SHIM_PATH": str(root / part), "SHIM_EIO": str(flag)}
    await rig.restart(env=env)
    await rig.bystander()
    for _ in range(extent(10, 2, 1)):
        with score.trial(part):
            running = await rig.must(await rig.count(100, pause=0.02))
            await rig.until(running, "running")
            async with rig.readers():
                flag.touch()
                try:
                    row = await rig.ended(running)
                finally:
                    flag.unlink()
                begun = time.monotonic()
                if part == "artifacts":
                    told = (row["status"], row["error"], row["exit_code"])
                    assert told == ("failed", "artifact_copy_failed", 0), row
                    rig.excused.add(running)
                    left = root / "artifacts" / ".staging" / running
                    assert (left / "x").exists(), "its retention has not passed"
                    shutil.rmtree(left)  # as the cleanup does then
                else:
                    assert row["status"] == "completed", row
                    assert any("log is incomplete" in w for w in row["warnings"]), row
                took = await rig.recovered(begun)
                score.judge(await rig.verdict(took, again=False), took, rig)
                await healed(rig, score)
    said = {"artifacts": "artifacts_not_collected", "joblogs": "log_incomplete"}[part]
    assert said in rig.stack.api.log.read_text()
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
                await rig.cancel(job_id)
            await rig.upload(finalize=chance.random() < 0.5)

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(post())
        for number in range(extent(100, 12, 6)):
            await asyncio.sleep(chance.uniform(0.05, 0.4))
            with score.trial(f"cut {number}"):
                jobs, uploads = set(rig.jobs), set(rig.uploads)
                cancels, finalized = set(rig.cancels), set(rig.finalized)
                copy = rig.stack.layout.root / "cut"
                await asyncio.to_thread(cut, kept, copy)
                found = await asyncio.to_thread(revive, copy)
                assert found.integrity == "ok", found.integrity
                for what, acknowledged in (
                    ("jobs", jobs),
                    ("cancels", cancels),
                    ("uploads", uploads),
                    ("finalized", finalized),
                ):
                    lost = acknowledged - getattr(found, what)
                    assert not lost, f"{len(lost)} acknowledged {what} lost"
                    score.detail[what] = len(acknowledged)  # how many were to be found at last
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


@dataclass(frozen=True)
class Revived:
    """What a database says after the cut: ids."""

    jobs: set[str]
    cancels: set[str]
    uploads: set[str]
    finalized: set[str]
    integrity: str


def revive(copy: Path) -> Revived:
    with closing(sqlite3.connect(copy / "flashpods.db")) as connection:

        def ids(table: str) -> set[str]:
            return {i for (i,) in connection.execute(f"SELECT id FROM {table}")}

        return Revived(
            jobs=ids("jobs"),
            cancels=ids("jobs WHERE cancel_requested_at IS NOT NULL OR status = 'cancelled'"),
            uploads=ids("uploads"),
            finalized=ids("uploads WHERE state <> 'uploading'"),
            integrity=str(connection.execute("PRAGMA integrity_check").fetchone()[0]),
        )
