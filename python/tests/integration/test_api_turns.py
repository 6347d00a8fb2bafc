"""Calls that wait for a turn have a bound on that: 503, when to come again, nothing changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_rig import Rig, make_rig, refused

from flashpods import uploads
from flashpods.adapters.files import logs as file_logs
from flashpods.adapters.files.logs import FileLogStore
from flashpods.api import output
from flashpods.errors import Unavailable
from flashpods.jobs.states import JobStatus
from flashpods.ports import TAIL_BYTES, LogTail

TURN = 0.05


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    for module in (uploads, output, file_logs):
        monkeypatch.setattr(module, "TURN_SECONDS", TURN)
    return make_rig(tmp_path)


@asynccontextmanager
async def taking_long(
    patch: pytest.MonkeyPatch, where: object, name: str, before: int = 1
) -> AsyncIterator[asyncio.Event]:
    """Have calls of a port go on only after the context; the event says that enough have begun."""
    real = getattr(where, name)
    began, go_on = asyncio.Event(), asyncio.Event()
    left = before

    async def slow(*args: Any, **more: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            began.set()
        await go_on.wait()
        return await real(*args, **more)

    patch.setattr(where, name, slow)
    try:
        async with asyncio.timeout(30):
            yield began
    finally:
        go_on.set()


def turned_away(answer: httpx.Response) -> None:
    refused(answer, 503, "service_unavailable")
    assert answer.headers["retry-after"] == "5"
    assert "no turn within 0.05 s" in answer.json()["message"]


async def pushed(rig: Rig, client: httpx.AsyncClient) -> str:
    upload = str((await client.post("/uploads")).json()["upload_id"])
    tree = rig.workspaces.transfers / upload
    tree.mkdir(parents=True)
    (tree / "main.c").write_bytes(b"int main;")
    return upload


async def test_a_finalize_that_gets_no_turn(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async with rig.client() as client:
        first, second = [await pushed(rig, client) for _ in range(2)]
        before = await rig.store.get_upload(second)
        async with taking_long(monkeypatch, rig.workspaces, "finalize") as began:
            at_it = asyncio.create_task(client.post(f"/uploads/{first}/finalize"))
            await began.wait()
            turned_away(await client.post(f"/uploads/{second}/finalize"))
            assert await rig.store.get_upload(second) == before
            assert (rig.workspaces.transfers / second / "main.c").exists()
        for answer in (await at_it, await client.post(f"/uploads/{second}/finalize")):
            assert (answer.status_code, answer.json()["state"]) == (200, "finalized")


async def test_a_copy_that_gets_no_turn(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async with rig.client() as client:
        source = await pushed(rig, client)
        assert (await client.post(f"/uploads/{source}/finalize")).status_code == 200
        async with taking_long(monkeypatch, rig.workspaces, "copy") as began:
            at_it = asyncio.create_task(client.post(f"/uploads/{source}/copy"))
            await began.wait()
            rows = await rig.store.uploads("uploading")
            turned_away(await client.post(f"/uploads/{source}/copy"))
            assert await rig.store.uploads("uploading") == rows
            assert len(rows) == 1
        for answer in (await at_it, await client.post(f"/uploads/{source}/copy")):
            assert answer.status_code == 201


async def test_a_deletion_that_gets_no_turn(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async with rig.client() as client:
        others = [await pushed(rig, client) for _ in range(uploads.DELETIONS_AT_ONCE)]
        last = await pushed(rig, client)
        before = await rig.store.get_upload(last)
        slow = taking_long(monkeypatch, rig.workspaces, "discard_upload", len(others))
        async with slow as began:
            at_it = [asyncio.create_task(client.delete(f"/uploads/{i}")) for i in others]
            await began.wait()
            turned_away(await client.delete(f"/uploads/{last}"))
            assert await rig.store.get_upload(last) == before
            assert (rig.workspaces.transfers / last / "main.c").exists()
        for answer in (*await asyncio.gather(*at_it), await client.delete(f"/uploads/{last}")):
            assert answer.status_code == 204
        assert list(rig.workspaces.transfers.iterdir()) == []


@pytest.mark.parametrize(
    ("call", "query"), [("tail", "tail=10000"), ("read", "offset=0&limit=1000000")]
)
async def test_a_large_answer_that_gets_no_turn(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, call: str, query: str
) -> None:
    job_id = await rig.in_state(JobStatus.COMPLETED)
    text = "[..] " + "x" * output.SMALL_BYTES + "\n"
    page = LogTail(
        output=text, lines=1, truncated=False, total_bytes=len(text), offset=0,
        next_offset=len(text),
    )  # fmt: skip
    waiting = asyncio.Event()
    go_on = asyncio.Event()
    left = output.LARGE_AT_ONCE

    async def answer(_job: str, _n: int, _m: int = 0, *, most_bytes: int = TAIL_BYTES) -> LogTail:
        nonlocal left
        if most_bytes == TAIL_BYTES:  # not the look that finds out that it is large
            left -= 1
            if left == 0:
                waiting.set()
            await go_on.wait()
        return page

    monkeypatch.setattr(rig.logs, call, answer)
    path = f"/jobs/{job_id}/output?{query}"
    async with rig.client() as client, asyncio.timeout(30):
        at_it = [asyncio.create_task(client.get(path)) for _ in range(output.LARGE_AT_ONCE)]
        await waiting.wait()
        turned_away(await client.get(path))
        go_on.set()
        for done in (*await asyncio.gather(*at_it), await client.get(path)):
            assert (done.status_code, done.json()["output"]) == (200, text)


async def test_a_large_tail_that_gets_no_place_in_the_store(rig: Rig, tmp_path: Path) -> None:
    store = FileLogStore(tmp_path / "logs", tmp_path / "capture", log_bytes=1024**2)
    job_id = await rig.in_state(JobStatus.COMPLETED)
    line = "[..] " + "x" * file_logs.INLINE_BYTES + "\n"
    (tmp_path / "logs" / f"{job_id}.log").write_text(line * 2)
    async with asyncio.timeout(30):
        for _ in range(file_logs.LARGE_AT_ONCE):
            await store._large._places.acquire()  # held by readers of a disk that stands still
        with pytest.raises(Unavailable, match="other logs are read"):
            await store.tail(job_id, 2)
        store._large._places.release()
        page = await store.tail(job_id, 2)
    assert page is not None
    assert page.output == line * 2
    await store.close()
