"""Batches of the MCP server against the API in memory: queue, copies, expiry, what goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_rig import AUTH, TOKEN, Rig, make_rig

from flashpods.client import FlashpodsClient
from flashpods.client.config import ClientConfig
from flashpods.client.errors import ClientError
from flashpods.client.models import Upload
from flashpods.jobs.model import Outcome
from flashpods.jobs.states import JobStatus, Trigger
from flashpods.mcp import batches, spawning
from flashpods.mcp.batches import MOST_BATCHES, Batch, Batches, Plan
from flashpods.mcp.host import Host
from flashpods.mcp.matrix import expand
from flashpods.mcp.progress import Progress
from flashpods.mcp.schemas import Files
from flashpods.mcp.trees import Trees


async def silent(_value: float, _total: float | None, _message: str | None) -> None:
    """Tell nobody."""


async def nobody(_line: str) -> None:
    """Tell nobody."""


@dataclass
class Laptop:
    """A client of the API in memory, and a stand-in for rsync that counts its pushes."""

    rig: Rig
    client: FlashpodsClient
    pushes: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)

    async def push(self, *_: Any, **__: Any) -> tuple[Upload, list[str]]:
        upload = await self.client.create_upload("p")
        tree = self.rig.workspaces.transfers / upload.upload_id
        tree.mkdir(parents=True)
        (tree / "a").write_bytes(b"a")
        self.pushes.append(upload.upload_id)
        done = await self.client.finalize(upload.upload_id)
        return Upload.from_json({**done.raw, "state": done.state}), []

    def begin(self, *commands: str, files: bool = True, **plan: Any) -> Batch:
        trees = Trees(self.client, Files(local_path=".") if files else None, Progress(silent))
        return Batch(self.client, self.plan(*commands, **plan), trees)

    def plan(self, *commands: str, **more: Any) -> Plan:
        values: dict[str, Any] = {"until": "all", "kill_rest": False, "queue_seconds": 60.0}
        variants = expand(commands, [], {})
        return Plan(variants=variants, fields={"cpus": 4, "memory_gb": 1}, **values | more)

    async def active(self) -> list[str]:
        """Return the ids of the jobs that wait to be run, oldest first."""
        page = await self.client.jobs("active", 100)
        return [job.id for job in reversed(page.jobs)]

    async def run(self, job_id: str, exit_code: int = 0) -> None:
        """Walk a job to its end, as the supervisor does."""
        await self.rig.move(job_id, Trigger.LAUNCH)
        await self.rig.move(job_id, Trigger.STARTED)
        ending = Trigger.SUCCEED if exit_code == 0 else Trigger.FAIL
        await self.rig.move(job_id, ending, outcome=Outcome(exit_code=exit_code))

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():  # noqa: ASYNC110 - a state of objects, which has no event
                await asyncio.sleep(0.005)


@pytest.fixture
async def laptop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Laptop]:
    monkeypatch.setattr(batches, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(batches, "ROOM_SECONDS", 0.01)
    rig = make_rig(tmp_path)
    transport = httpx.ASGITransport(app=rig.app, raise_app_exceptions=False)
    config = ClientConfig(token=TOKEN, api_url="http://api", retry_max_attempts=0)
    async with FlashpodsClient(config, transport=transport) as client:
        laptop = Laptop(rig, client)
        monkeypatch.setattr(spawning, "push", laptop.push)
        yield laptop


async def test_one_push_and_a_queue_in_order(laptop: Laptop) -> None:
    batch = laptop.begin("one", "two", "three", "four")
    for _ in range(4):
        await laptop.until(lambda: sum(e.job_id is not None for e in batch._entries) >= 1)
        (first, *_) = await eventually(laptop)
        assert len(await laptop.active()) <= 2  # 8 CPUs, 4 a job
        await laptop.run(first)
    await batch.wait(30, nobody)
    result = batch.result()
    assert result.finished
    assert [job.status for job in result.jobs] == ["completed"] * 4
    jobs = [await laptop.client.get_job(job.job_id or "") for job in result.jobs]
    assert [job.command for job in jobs] == ["one", "two", "three", "four"]
    assert len(laptop.pushes) == 1
    rows = [await laptop.rig.store.get(job.id) for job in jobs]
    ids = [row.files_id for row in rows if row is not None]
    assert len(set(ids)) == 4
    assert ids[-1] == laptop.pushes[0]  # the last took the tree itself


async def eventually(laptop: Laptop) -> list[str]:
    async with asyncio.timeout(30):
        while not (found := await laptop.active()):  # noqa: ASYNC110 - the API has no event for it
            await asyncio.sleep(0.005)
    return found


async def test_files_whose_time_is_over_are_pushed_again(laptop: Laptop) -> None:
    batch = laptop.begin("one", "two", "three")
    await laptop.until(lambda: batch._entries[2].error == "insufficient_resources")
    first, second = await laptop.active()
    laptop.rig.clock.advance(3 * 3600)
    await laptop.rig.store.expire(laptop.pushes[0], at=laptop.rig.clock.now())
    await laptop.run(first)
    await laptop.until(lambda: batch._entries[2].job_id is not None)
    assert len(laptop.pushes) == 2
    await laptop.run(second)
    for job_id in await laptop.active():
        await laptop.run(job_id)
    await batch.wait(30, nobody)
    assert batch.counts() == {"completed": 3}


async def test_the_first_failure_stops_it_and_kills_the_rest(laptop: Laptop) -> None:
    batch = laptop.begin("one", "two", "three", until="first_failure", kill_rest=True)
    await laptop.until(lambda: batch._entries[2].error == "insufficient_resources")
    first, second = await laptop.active()
    await laptop.rig.move(second, Trigger.LAUNCH)
    await laptop.rig.move(second, Trigger.STARTED)
    await laptop.run(first, exit_code=3)
    async with asyncio.timeout(30):
        while not (await laptop.client.get_job(second)).cancel_requested:  # noqa: ASYNC110 - likewise
            await asyncio.sleep(0.005)
    await laptop.rig.move(second, Trigger.CANCEL, outcome=Outcome(exit_code=137))
    for job_id in await laptop.active():  # the third may have come in before
        await laptop.rig.move(job_id, Trigger.CANCEL)
    await batch.wait(30, nobody)
    result = batch.result()
    assert (result.finished, result.stopped_by) == (True, 1)
    statuses = [job.status for job in result.jobs]
    assert statuses[:2] == ["failed", "cancelled"]
    assert statuses[2] in {"not_started", "cancelled"}


async def test_a_stopped_batch_gives_its_files_up_and_leaves_its_jobs(laptop: Laptop) -> None:
    batch = laptop.begin("one", "two", "three")
    await laptop.until(lambda: batch._entries[2].error == "insufficient_resources")
    before = await laptop.active()
    await batch.stop()
    assert batch.counts() == {"pending": 2, "not_started": 1}
    assert await laptop.active() == before
    assert await laptop.rig.store.uploads("finalized") == [
        upload for upload in await laptop.rig.store.uploads("finalized") if upload.job_id
    ]


async def test_a_push_that_fails_is_the_batchs_failure(
    laptop: Laptop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: Any, **__: Any) -> None:
        raise ClientError("upload_failed", "no tunnel")

    monkeypatch.setattr(spawning, "push", fail)
    batch = laptop.begin("one", "two")
    await batch.wait(30, nobody)
    with pytest.raises(ClientError, match="no tunnel"):
        batch.result()
    assert batch.counts() == {"not_started": 2}


async def test_a_job_that_the_host_lost(laptop: Laptop) -> None:
    batch = laptop.begin("one", files=False)
    (job_id,) = await eventually(laptop)
    laptop.rig.store._jobs.pop(job_id)
    await batch.wait(30, nobody)
    (job,) = batch.result().jobs
    assert job.status == "lost"


async def test_a_token_that_is_refused_later_is_told(laptop: Laptop) -> None:
    batch = laptop.begin("one", files=False)
    await eventually(laptop)
    laptop.client._http._client.headers["Authorization"] = "Bearer wrong"
    await batch.wait(30, nobody)
    result = batch.result()
    assert result.finished
    assert "invalid_token" in result.next
    assert result.jobs[0].job_id is not None
    laptop.client._http._client.headers.update(AUTH)


async def test_batches_are_bounded(laptop: Laptop) -> None:
    host = Host(lambda: laptop.client.config)
    host._client = laptop.client
    known = Batches(host)
    plan = laptop.plan("one", "two", "three")
    for _ in range(MOST_BATCHES):
        last = await known.begin(plan, Trees(laptop.client, None, Progress(silent)))
    with pytest.raises(ClientError) as raised:
        await known.begin(plan, Trees(laptop.client, None, Progress(silent)))
    assert raised.value.code == "too_many_batches"
    await last.stop()
    await known.begin(plan, Trees(laptop.client, None, Progress(silent)))
    with pytest.raises(ClientError) as raised:
        known.get(last.id)
    assert raised.value.code == "batch_not_found"
    with suppress(TimeoutError):
        async with asyncio.timeout(20):
            await known.aclose()
    assert JobStatus.CANCELLED not in {job.status for job in laptop.rig.store._jobs.values()}
