"""What only the real store has: files, processes, reopening, reads while it writes."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flashpods.adapters.sqlite import jobs, transfers
from flashpods.adapters.sqlite import reader as readers
from flashpods.adapters.sqlite.store import SqliteStore
from flashpods.errors import Conflict, Unavailable
from flashpods.jobs.model import Capacity, Grant, Job, JobType, NewJob, Step
from flashpods.jobs.states import JobStatus, Trigger

AT = datetime(2026, 11, 24, 9, 31, 26, 123000, tzinfo=UTC)
HOST = Capacity(cpus=1000, memory_gb=1000)
HERE = Path(__file__).parent
UPLOAD = "upload_abcdefghijkl"


def new_job(number: int, context: str | None = None) -> NewJob:
    return NewJob(
        id=f"j{number:05d}",
        client_job_id=None,
        request_sha256="a",
        type=JobType.WORKER,
        command="make",
        task=None,
        context=context,
        git_branch=None,
        files_id=None,
        image="i",
        grant=Grant(cpus=1, memory_gb=1, timeout_minutes=1),
    )


def names(directory: Path) -> list[str]:
    return [file.name for file in directory.iterdir()]


async def test_a_reopened_store_has_it_all(tmp_path: Path) -> None:
    path = tmp_path / "f.db"
    async with await SqliteStore.open(path) as store:
        job, _ = await store.submit(new_job(1), capacity=HOST, at=AT)
        await store.set_draining(True, at=AT)
        await store.close()
        await store.close()
    assert names(tmp_path) == ["f.db"]  # a clean close leaves one file to copy
    async with await SqliteStore.open(path) as store:
        assert await store.get(job.id) == job
        assert await store.draining()


async def submit_and_die(path: str) -> None:
    """Run in a process of its own."""
    store = await SqliteStore.open(Path(path))
    await asyncio.gather(*(store.submit(new_job(n), capacity=HOST, at=AT) for n in range(50)))
    await store.advance("j00007", JobStatus.PENDING, Trigger.FAIL, Step(why="w", at=AT))
    os.kill(os.getpid(), signal.SIGKILL)


async def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "f.db"
    code = (
        "import asyncio, pathlib, sys; sys.path.insert(0, sys.argv[2]); import test_sqlite_store;"
        "asyncio.run(test_sqlite_store.submit_and_die(pathlib.Path(sys.argv[1])))"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, path, HERE)
    assert await asyncio.wait_for(process.wait(), 120) == -signal.SIGKILL
    async with await SqliteStore.open(path) as store:
        assert (await store.page(statuses=None, limit=1, cursor=None)).total == 50
        failed = await store.get("j00007")
        assert failed is not None
        assert failed.status is JobStatus.FAILED
        assert len(await store.events("j00007")) == 2
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


async def test_a_job_and_its_events_are_of_one_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f.db"
    read = jobs.get

    def read_then_changed(connection: sqlite3.Connection, job_id: str) -> Job | None:
        job = read(connection, job_id)
        step = Step(why="w", at=AT)
        with closing(sqlite3.connect(path)) as other, other:  # it commits
            jobs.advance(other, job_id, JobStatus.PENDING, Trigger.FAIL, step)
        return job

    async with await SqliteStore.open(path) as store:
        await store.submit(new_job(1), capacity=HOST, at=AT)
        assert await store.history("nope") is None
        with monkeypatch.context() as patched:
            patched.setattr(jobs, "get", read_then_changed)
            found = await store.history("j00001")
        assert found is not None
        assert (found[0].status, [e.to_status for e in found[1]]) == ("pending", ["pending"])
        found = await store.history("j00001")
        assert found is not None
        assert (found[0].status, found[1][-1].to_status) == ("failed", "failed")


async def test_two_processes_share_the_database(tmp_path: Path) -> None:
    path = tmp_path / "f.db"
    async with await SqliteStore.open(path) as one, await SqliteStore.open(path) as two:
        host = Capacity(cpus=10, memory_gb=10)
        results = await asyncio.gather(
            *((one, two)[n % 2].submit(new_job(n), capacity=host, at=AT) for n in range(40)),
            return_exceptions=True,
        )
        assert sum(isinstance(r, tuple) for r in results) == 10
        assert await one.active() == await two.active()


async def test_each_thread_and_the_loop_see_every_write(tmp_path: Path) -> None:
    async with await SqliteStore.open(tmp_path / "f.db") as store:
        for n in range(30):
            job, _ = await store.submit(new_job(n), capacity=HOST, at=AT)
            assert await store.get(job.id) == job
            pages = await asyncio.gather(
                *(store.page(statuses=None, limit=1, cursor=None) for _ in range(4))
            )
            assert [page.jobs for page in pages] == [[job]] * 4


async def test_slow_lists_leave_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with await SqliteStore.open(tmp_path / "f.db") as store:
        await store.submit(new_job(1), capacity=HOST, at=AT)
        for limit in (0.0, 100.0):  # always in a thread, then always inline
            monkeypatch.setattr(readers, "INLINE_SECONDS", limit)
            for _ in range(3):
                page = await store.page(statuses=None, limit=1, cursor=None)
                assert page.total == 1


async def test_too_many_waiting_reads_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "WAITING_LIMIT", 5)
    async with await SqliteStore.open(tmp_path / "f.db") as store:
        results = await asyncio.gather(*(store.ping() for _ in range(9)), return_exceptions=True)
        assert [type(r) for r in results].count(Unavailable) == 4
        await store.ping()


async def test_a_closed_store_is_unavailable(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "f.db")
    await store.close()
    for call in (
        store.submit(new_job(1), capacity=HOST, at=AT),
        store.get("j1"),
        store.page(statuses=None, limit=1, cursor=None),
        store.ping(),
    ):
        with pytest.raises(Unavailable, match="closed"):
            await call


def cat() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE)


def kill_but_not_reap(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and still a zombie


async def test_a_transfer_lives_as_long_as_its_process(tmp_path: Path) -> None:
    path = tmp_path / "f.db"
    with cat() as process:
        ticks = transfers.start_ticks(process.pid)
        assert ticks is not None
        async with await SqliteStore.open(path) as store:
            await store.adopt(UPLOAD, at=AT, expires_at=AT + timedelta(minutes=30))
            with closing(sqlite3.connect(path, isolation_level=None)) as connection:
                known = [(process.pid, ticks), (os.getpid(), 1)]  # the second: a reused number
                transfers.record(connection, UPLOAD, process.pid, known, "2026-11-24T09:31:26.123Z")
            with pytest.raises(Conflict) as caught:
                await store.begin_finalize(UPLOAD, at=AT)
            assert caught.value.code == "upload_in_progress"
            assert await store.expire(UPLOAD, at=AT) is None
            kill_but_not_reap(process)
            await store.begin_finalize(UPLOAD, at=AT)


def test_liveness_of_processes() -> None:
    mine = transfers.start_ticks(os.getpid())
    assert mine is not None
    assert transfers.alive(os.getpid(), mine)
    assert not transfers.alive(os.getpid(), mine + 1)
    assert transfers.alive(os.getpid(), transfers.HIDDEN)
    assert transfers.start_ticks(0) is None
    assert transfers.start_ticks(2**22 + 1) is None
    assert not transfers.alive(2**22 + 1, transfers.HIDDEN)
    assert transfers.parent(os.getpid()) == os.getppid()
    assert transfers.parent(2**22 + 1) == 0


def test_a_process_that_is_hidden_counts_as_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(transfers, "stat_fields", lambda pid: None)
    monkeypatch.setattr(os, "kill", refuse)
    assert transfers.alive(1234, 99)
