"""Many large tails at once cost bounded memory and do not hold up other calls."""

from __future__ import annotations

import asyncio
import time
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest
from api_rig import Rig, Stream, make_rig

from flashpods.adapters.files.logs import FileLogStore
from flashpods.api.app import create_app
from flashpods.api.output import SMALL_BYTES
from flashpods.jobs.states import JobStatus
from flashpods.ports import TAIL_BYTES

AT_ONCE = 8
MB = 1024**2
LINE = 64 * 1024


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = make_rig(tmp_path)
    store = FileLogStore(tmp_path / "logs", tmp_path / "capture", log_bytes=50 * MB)
    rig.logs = store  # type: ignore[assignment] # the real store
    rig.app = create_app(rig.services())
    yield rig
    await store.close()


async def logged(rig: Rig, line: bytes, count: int) -> str:
    job_id = await rig.in_state(JobStatus.COMPLETED)
    (rig.root / "logs" / f"{job_id}.log").write_bytes(line * count)
    return job_id


async def fetch(rig: Rig, job_id: str, query: str) -> bytes:
    parts = []
    async with Stream(rig.app, f"/jobs/{job_id}/output", query) as stream:
        message = await stream._message()
        parts.append(message["body"])
    return b"".join(parts)


async def test_a_large_tail_is_cut_to_whole_lines(rig: Rig) -> None:
    job_id = await logged(rig, b"[..] " + b"x" * (LINE - 6) + b"\n", 700)
    page = orjson.loads(await fetch(rig, job_id, "tail=10000"))
    assert (page["lines"], len(page["output"])) == (TAIL_BYTES // LINE, TAIL_BYTES)
    assert page["next_offset"] == page["total_bytes"] == 700 * LINE
    assert page["offset"] == 700 * LINE - TAIL_BYTES
    page = orjson.loads(await fetch(rig, job_id, "tail=3"))
    assert (page["lines"], len(page["output"])) == (3, 3 * LINE)
    page = orjson.loads(await fetch(rig, job_id, f"tail={SMALL_BYTES // LINE + 1}"))
    assert page["lines"] == SMALL_BYTES // LINE + 1
    page = orjson.loads(await fetch(rig, job_id, f"offset=0&limit={MB}"))
    assert page["lines"] == MB // LINE


async def test_a_large_answer_is_the_json_of_its_text(rig: Rig) -> None:
    line = '[..] "\\\x1b[1m\r\t\N{SNOWMAN}\N{GRINNING FACE}\x7f\n'
    job_id = await logged(rig, line.encode(), 60_000)
    page = orjson.loads(await fetch(rig, job_id, "tail=9999"))
    assert (page["lines"], page["output"]) == (9999, line * 9999)
    page = orjson.loads(await fetch(rig, job_id, f"offset=0&limit={MB}"))
    assert page["output"] == line * page["lines"]
    assert MB - len(line.encode()) < page["next_offset"] <= MB


async def test_one_line_longer_than_small_comes_whole(rig: Rig) -> None:
    line = b"y" * (SMALL_BYTES + 100) + b"\n"
    job_id = await logged(rig, line, 2)
    for query in ("tail=1", "offset=0&limit=1"):
        page = orjson.loads(await fetch(rig, job_id, query))
        assert (page["lines"], len(page["output"])) == (1, len(line))


async def test_large_tails_at_once(rig: Rig) -> None:
    job_id = await logged(rig, b"[..] " + b"x" * (LINE - 6) + b"\n", 700)
    longest = 0.0  # turn of the loop, in seconds of the processor, like the work
    done = asyncio.Event()

    async def watch() -> None:
        nonlocal longest
        while not done.is_set():
            began = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - began)

    watching = asyncio.create_task(watch())
    tracemalloc.start()
    began = time.process_time()
    try:
        bodies = await asyncio.gather(*(fetch(rig, job_id, "tail=10000") for _ in range(AT_ONCE)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        work = time.process_time() - began
        tracemalloc.stop()
        done.set()
        await watching
    assert all(len(body) > TAIL_BYTES for body in bodies)
    # The answers themselves, and for each of the few in work: blocks, joined, cut, text.
    assert peak < AT_ONCE * (TAIL_BYTES + MB) + 4 * 5 * TAIL_BYTES
    assert longest < work / 4  # a tenth, on any machine: others get their turn in between
