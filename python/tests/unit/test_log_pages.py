"""A page that many follow is read once, and kept no longer than the job is followed."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from flashpods.adapters.files import logread
from flashpods.adapters.files.logs import FileLogStore
from flashpods.ports import LogTail

LINE = b"2026-11-26T09:31:25.007000000+00:00 stdout F %s\n"
WORDS = "a page of its own kind"


def kept() -> int:
    """Count the pages that somebody holds."""
    gc.collect()
    return sum(1 for one in gc.get_objects() if type(one) is LogTail and WORDS in one.output)


async def test_pages_go_with_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileLogStore(tmp_path / "logs", tmp_path / "capture", log_bytes=2**20)
    reads: list[int] = []
    real = logread.read_page

    def counted(fd: int, offset: int, *rest: int, **options: bool) -> LogTail:
        reads.append(offset)
        return real(fd, offset, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(logread, "read_page", counted)
    jobs = [f"{number:016x}" for number in range(3)]
    for job_id in jobs:
        store.capture_path(job_id).write_bytes(LINE % WORDS.encode())
        await store.follow(job_id)
        await store.changed(job_id, 0, 10)
        page = await store.read(job_id, 0, 4096)
        assert page is not None
        assert WORDS in page.output
        reads.clear()
        assert await store.read(job_id, 0, 4096) is page
        assert reads == []
        del page
    assert kept() == len(jobs)
    for job_id in jobs:
        await store.drain(job_id)
    assert kept() == 0
    await store.close()
