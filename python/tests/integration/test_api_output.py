"""``/jobs/{id}/output``: tail, pages, and streams that resume."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from api_rig import Rig, Stream, make_rig, refused

from flashpods.api import stream as stream_module
from flashpods.jobs.model import Note
from flashpods.jobs.states import JobStatus, Trigger

LINE = "[09:30:00.000] "


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return make_rig(tmp_path)


async def test_tail_and_pages(rig: Rig) -> None:
    job_id = await rig.running()
    await rig.log(job_id, "one", "two", "three")
    async with rig.client() as client:
        whole = (await client.get(f"/jobs/{job_id}/output")).json()
        text = f"{LINE}one\n{LINE}two\n{LINE}three\n"
        assert whole == {
            "output": text,
            "lines": 3,
            "truncated": False,
            "total_bytes": len(text),
            "offset": 0,
            "next_offset": len(text),
        }
        last = (await client.get(f"/jobs/{job_id}/output?tail=1")).json()
        assert (last["output"], last["lines"]) == (f"{LINE}three\n", 1)
        seen, offset = "", 0
        while offset < len(text):
            page = (await client.get(f"/jobs/{job_id}/output?offset={offset}&limit=25")).json()
            assert page["offset"] == offset
            seen, offset = seen + page["output"], page["next_offset"]
        assert seen == text
        beyond = (await client.get(f"/jobs/{job_id}/output?offset={2**53 - 1}")).json()
        assert (beyond["output"], beyond["total_bytes"]) == ("", len(text))


@pytest.mark.parametrize(
    "query",
    [
        "tail=0",
        "tail=10001",
        "tail=x",
        "tail=1&offset=0",
        "tail=1&follow=true",
        "offset=-1",
        f"offset={2**53}",
        "limit=0",
        f"limit={1024**2 + 1}",
        "follow=yes",
        "follow=true&limit=1",
        "tails=1",
    ],
)
async def test_bad_queries(rig: Rig, query: str) -> None:
    job_id = await rig.running()
    async with rig.client() as client:
        refused(await client.get(f"/jobs/{job_id}/output?{query}"), 400, "invalid_request")


@pytest.mark.parametrize("last", ["", "x", "-1", "1.5", "9" * 16])
async def test_bad_last_event_id(rig: Rig, last: str) -> None:
    job_id = await rig.running()
    async with rig.client() as client:
        answer = await client.get(
            f"/jobs/{job_id}/output?follow=true", headers={"Last-Event-ID": last}
        )
        refused(answer, 400, "invalid_request")


@pytest.mark.parametrize("status", list(JobStatus))
async def test_each_state_without_a_log(rig: Rig, status: JobStatus) -> None:
    job_id = await rig.in_state(status)
    async with rig.client() as client:
        answer = await client.get(f"/jobs/{job_id}/output")
        if status is JobStatus.PENDING:
            refused(answer, 404, "logs_not_available")
        elif status in {JobStatus.CLEANING, JobStatus.CLEANED}:
            refused(answer, 410, "logs_deleted")
            refused(await client.get(f"/jobs/{job_id}/output?follow=true"), 410, "logs_deleted")
        else:
            assert answer.status_code == 200
            assert (answer.json()["output"], answer.json()["total_bytes"]) == ("", 0)


async def test_a_deleted_log_is_gone(rig: Rig) -> None:
    job_id = await rig.completed()
    await rig.store.note(job_id, Note(log_deleted_at=rig.clock.now()))
    async with rig.client() as client:
        refused(await client.get(f"/jobs/{job_id}/output"), 410, "logs_deleted")


async def test_follow_from_pending_to_the_end(rig: Rig) -> None:
    job_id = await rig.job()
    async with Stream(rig.app, f"/jobs/{job_id}/output", "follow=true") as stream:
        assert stream.status == 200
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert stream.headers["cache-control"] == "no-store"
        assert stream.headers["x-request-id"]
        await rig.move(job_id, Trigger.LAUNCH)
        await rig.log(job_id, "pulling")
        assert await stream.event() == {"id": "23", "data": f"{LINE}pulling"}
        await rig.move(job_id, Trigger.STARTED)
        await rig.log(job_id, "a\rb")
        event = await stream.event()
        assert event is not None
        assert (event["id"], event["event"]) == ("42", "encoded")
        assert json.loads(event["data"]) == f"{LINE}a\rb\n"
        await rig.log(job_id, "last")
        await rig.end(job_id, Trigger.FAIL, exit_code=3, error=None)
        assert await stream.event() == {"id": "62", "data": f"{LINE}last"}
        event = await stream.event()
        assert event is not None
        assert (event["id"], event["event"]) == ("62", "end")
        assert json.loads(event["data"]) == {"status": "failed", "exit_code": 3, "error": None}
        assert await stream.event() is None
    assert len(rig.app.context.held) == 0


async def test_follow_resumes_without_a_lost_or_doubled_line(rig: Rig) -> None:
    job_id = await rig.running()
    await rig.log(job_id, "one", "two")
    async with Stream(rig.app, f"/jobs/{job_id}/output", "follow=true") as stream:
        first = await stream.event()
    assert first is not None
    await rig.log(job_id, "three", "")
    await rig.end(job_id)
    headers = {"Last-Event-ID": first["id"]}
    # The address still says 0, as a reconnecting browser's does: the header wins.
    async with Stream(rig.app, f"/jobs/{job_id}/output", "follow=true&offset=0", headers) as stream:
        second = await stream.event()
        assert second is not None
        assert first["data"] + "\n" + second["data"] == "\n".join(
            (f"{LINE}one", f"{LINE}two", f"{LINE}three", LINE)
        )
        end = await stream.event()
        assert end is not None
        assert end["event"] == "end"


async def test_a_long_log_comes_in_bounded_batches(rig: Rig) -> None:
    job_id = await rig.running()
    lines = [f"{n:05} " + "x" * 100 for n in range(3000)]
    await rig.log(job_id, "\n".join(lines))
    await rig.end(job_id)
    seen: list[str] = []
    async with Stream(rig.app, f"/jobs/{job_id}/output", "follow=true") as stream:
        while (part := await stream.part()) is not None:
            assert len(part) < 80 * 1024
            seen += [line[6:] for line in part.decode().split("\n") if line.startswith("data: [")]
    assert seen == [LINE + line for line in lines]


async def test_many_followers_read_a_chunk_once(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = await rig.running()
    await rig.log(job_id, "one")
    reads = 0
    read = rig.logs.read

    async def counted(*args: object) -> object:
        nonlocal reads
        reads += 1
        return await read(*args)  # type: ignore[arg-type] # passed on as they came

    monkeypatch.setattr(rig.logs, "read", counted)
    streams = [Stream(rig.app, f"/jobs/{job_id}/output", "follow=true") for _ in range(50)]
    async with asyncio.timeout(30):
        for stream in streams:
            await stream.__aenter__()
            assert (await stream.event() or {})["data"] == f"{LINE}one"
        reads = 0
        await rig.log(job_id, "two")
        for stream in streams:
            assert (await stream.event() or {})["data"] == f"{LINE}two"
        # One read of the text; the others only found that there is nothing after it.
        assert reads <= 1 + 2 * len(streams)
        assert len(rig.app.context.held) == 50
        for stream in streams:
            await stream.__aexit__()
    assert len(rig.app.context.held) == 0
    assert not [t for t in asyncio.all_tasks() if t.get_name().startswith("feed")]


async def test_streams_are_bounded(tmp_path: Path) -> None:
    rig = make_rig(tmp_path, follow_limit=1)
    job_id = await rig.running()
    async with Stream(rig.app, f"/jobs/{job_id}/output", "follow=true"), rig.client() as client:
        answer = await client.get(f"/jobs/{job_id}/output?follow=true")
        refused(answer, 503, "service_unavailable")
        assert (await client.get(f"/jobs/{job_id}/output")).status_code == 200


async def test_heartbeat(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "HEARTBEAT_SECONDS", 0.02)
    job_id = await rig.running()
    async with Stream(rig.app, f"/jobs/{job_id}/output", "follow=true") as stream:
        assert (await stream.part() or b"").startswith(b":")
        assert (await stream.part() or b"").startswith(b":")


async def test_stopping_ends_streams_without_an_end_event(rig: Rig) -> None:
    job_id = await rig.running()
    async with Stream(rig.app, f"/jobs/{job_id}/output", "follow=true") as stream:
        rig.app.context.held.close()
        assert await stream.event() is None


async def test_a_job_that_ends_before_its_log_began(rig: Rig) -> None:
    job_id = await rig.job()
    async with Stream(rig.app, f"/jobs/{job_id}/output", "follow=true") as stream:
        await rig.move(job_id, Trigger.CANCEL)
        event = await stream.event()
        assert event is not None
        assert json.loads(event["data"])["status"] == "cancelled"
        assert await stream.event() is None
