"""The log store over captures: the cap, idle jobs, a full disk, readers, another process."""

import asyncio
import errno
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from capture_rig import JOB, MB, Engine, expected, failing, output, raw

from flashpods.adapters.files import logs as logs_module
from flashpods.adapters.files.capture import Capture
from flashpods.adapters.files.logs import FileLogStore


def store_in(root: Path, limit: int = 50 * MB) -> FileLogStore:
    return FileLogStore(root / "logs", root / "capture", log_bytes=limit)


async def settle(store: FileLogStore, job_id: str, size: int) -> None:
    async with asyncio.timeout(60):
        while True:
            page = await store.tail(job_id, 1)
            assert page is not None
            if page.total_bytes >= size:
                return
            await store.changed(job_id, page.total_bytes, 5)


async def test_directories_and_files_are_ours_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        store = store_in(tmp_path)
        path = store.capture_path(JOB)
    finally:
        os.umask(old)
    assert path == tmp_path / "capture" / JOB / "raw"
    for directory in (tmp_path / "logs", tmp_path / "capture", path.parent, path.parent / "kept"):
        assert directory.stat().st_mode & 0o777 == 0o750
    for file in (path, tmp_path / "logs" / f"{JOB}.log"):
        assert file.stat().st_mode & 0o777 == 0o640
    assert store.capture_max_bytes >= 50 * MB * 46 / 16 + 8192 + 46
    await store.close()


async def test_close_and_resume_in_another_store(
    tmp_path: Path, engines: Callable[[Path, int], Engine]
) -> None:
    first = store_in(tmp_path)
    await first.write(JOB, "own", at=datetime(2026, 11, 24, tzinfo=UTC))
    engine = engines(first.capture_path(JOB), 10 * MB)
    await first.follow(JOB)
    engine.write(*output(50))
    own = b"[00:00:00.000] own\n"
    await settle(first, JOB, len(own) + 100)
    waiting = asyncio.create_task(first.changed(JOB, 10**9, 60))
    await asyncio.sleep(0)
    await first.close()
    await asyncio.wait_for(waiting, 60)
    engine.write(*output(70))
    second = store_in(tmp_path)
    await second.follow(JOB)
    await second.follow(JOB)
    engine.write(raw("end"))
    await settle(second, JOB, len(own) + 1000)
    await second.drain(JOB)
    await second.close()
    log = (tmp_path / "logs" / f"{JOB}.log").read_bytes()
    assert log == expected(engine.written, 50 * MB, own)


async def test_a_flood_beyond_the_cap_keeps_the_disk_bounded(
    tmp_path: Path, engines: Callable[[Path, int], Engine]
) -> None:
    limit = 256 * 1024
    store = store_in(tmp_path, limit)
    engine = engines(store.capture_path(JOB), store.capture_max_bytes)
    await store.follow(JOB)
    flood = raw("y" * 70) * 500
    most = 0
    for _ in range(400):
        await asyncio.to_thread(engine.write, flood)
        most = max(most, *(size for _, size in await store.stored()))
    assert engine.rotations > 10
    assert most <= limit * 1.1 + 3 * store.capture_max_bytes
    await settle(store, JOB, limit - 100)
    page = await store.tail(JOB, 1)
    assert page is not None
    assert page.truncated
    assert page.output == "[..] [TRUNCATED - log exceeded 0.25 MB limit]\n"
    engine.write(flood)
    async with asyncio.timeout(30):
        while dict(await store.stored())[JOB] > limit + MB + store.capture_max_bytes // 8:
            await store.changed(JOB, page.total_bytes, 0.05)
            engine.write(raw("more"))
    assert [k.name for k in (tmp_path / "capture" / JOB / "kept").glob("[0-9]*")] == []
    await store.close()
    again = store_in(tmp_path, limit)
    engine.write(flood)
    await again.follow(JOB)
    await again.drain(JOB)
    assert await again.tail(JOB, 1) == page
    await again.close()


async def test_idle_jobs_cost_nothing_and_a_flood_few_passes(
    tmp_path: Path, engines: Callable[[Path, int], Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[str] = []
    real = Capture.step

    def step(self: Capture, *, final: bool = False) -> bool:
        passes.append(self.job_id)
        return real(self, final=final)

    monkeypatch.setattr(Capture, "step", step)
    store = store_in(tmp_path)
    jobs = [f"{n:016x}" for n in range(20)]
    for job in jobs:
        engines(store.capture_path(job), 10 * MB)
        await store.follow(job)
    loop = asyncio.get_running_loop()
    engine = engines(store.capture_path(jobs[3]), 10 * MB)
    async with asyncio.timeout(60):  # until the first passes are over; then for good
        while set(passes) != {jobs[3]}:
            passes.clear()
            began = loop.time()
            while loop.time() - began < 0.5 or passes.count(jobs[3]) < 2:
                await asyncio.to_thread(engine.write, raw("x"))
    assert len(passes) <= (loop.time() - began) / logs_module.PASS_SECONDS + 2
    await store.drain(jobs[3])
    log = (tmp_path / "logs" / f"{jobs[3]}.log").read_bytes()
    assert log == expected(engine.written, 50 * MB)
    await store.close()


async def test_without_inotify_it_still_follows(
    tmp_path: Path, engines: Callable[[Path, int], Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs_module, "Inotify", failing(errno.EMFILE))
    monkeypatch.setattr(logs_module, "UNWATCHED_SECONDS", 0.02)
    store = store_in(tmp_path)
    engine = engines(store.capture_path(JOB), MB)
    await store.follow(JOB)
    engine.write(raw("x"))
    await settle(store, JOB, 17)
    await store.close()


async def test_a_full_disk_stalls_the_capture_and_loses_nothing(
    tmp_path: Path, engines: Callable[[Path, int], Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs_module, "RETRY_SECONDS", (0.01, 0.02))
    store = store_in(tmp_path)
    engine = engines(store.capture_path(JOB), MB)
    with monkeypatch.context() as patch:
        tried = threading.Event()
        patch.setattr(os, "pwrite", failing(errno.ENOSPC, tried))
        await store.follow(JOB)
        engine.write(raw("one"))
        assert await asyncio.to_thread(tried.wait, 60)
        page = await store.tail(JOB, 1)
        assert page is not None
        assert page.total_bytes == 0
    await settle(store, JOB, 19)
    engine.write(raw("two", "P"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", failing(errno.EIO))
        for _ in range(2):
            with pytest.raises(OSError, match=os.strerror(errno.EIO)) as caught:
                await store.drain(JOB)
            assert caught.value.errno == errno.EIO
    await store.drain(JOB)
    log = (tmp_path / "logs" / f"{JOB}.log").read_bytes()
    assert log == b"[09:31:26.123] one\n[09:31:26.123] two\n"
    await store.close()


async def test_a_cancelled_drain_can_be_repeated(
    tmp_path: Path, engines: Callable[[Path, int], Engine]
) -> None:
    store = store_in(tmp_path)
    engine = engines(store.capture_path(JOB), 50 * MB)
    await store.follow(JOB)
    await asyncio.to_thread(engine.write, *output(20_000))
    drain = asyncio.create_task(store.drain(JOB))
    await store.changed(JOB, 0, 5)
    drain.cancel()
    with suppress(asyncio.CancelledError):
        await drain
    await store.follow(JOB)
    await store.drain(JOB)
    log = (tmp_path / "logs" / f"{JOB}.log").read_bytes()
    assert log == expected(engine.written, 50 * MB)
    await store.close()


async def test_a_reader_sees_whole_lines_only_and_nothing_moves_on_resume(tmp_path: Path) -> None:
    log = tmp_path / "logs" / f"{JOB}.log"
    store = store_in(tmp_path)
    path = store.capture_path(JOB)
    path.write_bytes(raw("one") + raw("two"))
    log.write_bytes(b"[09:31:26.123] one\n[09:31")  # a kill in the middle of a write
    (path.parent / "kept" / "origin").write_text("0")
    page = await store.tail(JOB, 5)
    assert page is not None
    assert page.output == "[09:31:26.123] one\n"
    await store.changed(JOB, 0, 60)
    await store.follow(JOB)
    await settle(store, JOB, 38)
    assert log.read_bytes() == b"[09:31:26.123] one\n[09:31:26.123] two\n"
    await store.close()
