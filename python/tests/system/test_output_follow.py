"""The log as a stream: nothing lost, nothing twice, over cuts, restarts and kills."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest
import support
from output_rig import GATE, MB, log_file, numbered_lines, open_gate, page
from running_api import ApiFactory
from support import Connected, assert_refused

from flashpods.client import ClientConfig, FlashpodsClient
from flashpods_dev.stack import MiniStack


@pytest.fixture(scope="module")
def numbered(shared: MiniStack) -> str:
    return asyncio.run(numbered_lines(shared))


async def test_follow_is_the_whole_log(host: Connected, numbered: str) -> None:
    whole = log_file(host, numbered).read_text()
    text, end = await support.follow_to_end(host.client, numbered)
    assert text == whole
    assert end.id == len(whole)
    assert '"status":"completed"' in end.data.replace(" ", "")
    text, _ = await support.follow_to_end(host.client, numbered, offset=len(whole))
    assert text == ""


async def test_follow_from_before_the_start_to_the_end(api: ApiFactory) -> None:
    running = api({"podman": {"launch_slots": 1}, "development": {"pretend_cpus": 8}})
    running.podman.kill()  # the first job waits for the engine, the second for the first
    jobs = [await support.submit(running.client, f"seq 300; echo end {n}") for n in range(2)]
    await support.until(running.client, jobs[0], "starting")
    row = await support.row_of(running.client, jobs[1])
    assert row["status"] == "pending"
    refused = await running.client.get(f"/jobs/{jobs[1]}/output")
    assert_refused(refused, 404, "logs_not_available")
    refused = await running.client.get(f"/jobs/{jobs[1]}/output", params={"offset": 0})
    assert_refused(refused, 404, "logs_not_available")
    followers = [asyncio.create_task(support.follow_to_end(running.client, j)) for j in jobs * 2]
    running.podman.start()
    seen = await asyncio.gather(*followers)
    for number, job_id in enumerate(jobs):
        text, end = seen[number]
        assert support.texts(text) == [*map(str, range(1, 301)), f"end {number}"]
        assert seen[number + 2] == (text, end)
        assert text == await support.output(running.client, job_id)


async def first_bytes(chunks: AsyncIterator[bytes], most: int) -> AsyncIterator[bytes]:
    """Yield a stream's first bytes, as a connection does that is then cut, within an event too."""
    async for chunk in chunks:
        yield chunk[:most]
        most -= len(chunk)
        if most <= 0:
            return


async def cut_and_resume(host: Connected, job_id: str, chaos: random.Random) -> tuple[str, int]:
    """Follow with a connection that is cut again and again; return the text and the cuts."""
    text: list[str] = []
    headers: dict[str, str] = {}
    for cuts in range(5000):
        path = f"/jobs/{job_id}/output?follow=true"
        async with host.client.stream("GET", path, headers=headers) as answer:
            assert answer.status_code == 200
            most = chaos.choice([1, 200, 500, 2000, 100_000])  # an event may have 90 kB
            async for event in support.events(first_bytes(answer.aiter_raw(), most)):
                if event.type == "end":
                    return "".join(text), cuts
                text.append(event.data + "\n")
                headers = {"Last-Event-ID": str(event.id)}
    raise AssertionError(f"no end after {cuts} cuts and {len(text)} events")


async def test_a_cut_connection_loses_and_doubles_nothing(host: Connected, numbered: str) -> None:
    whole = log_file(host, numbered).read_text()
    text, cuts = await cut_and_resume(host, numbered, random.Random(4))
    assert text == whole
    assert cuts > 2
    # And while it grows.
    command = "for i in $(seq 60); do seq $i 200; sleep 0.01; done"
    job_id = await support.submit(host.client, command)
    followers = [cut_and_resume(host, job_id, random.Random(seed)) for seed in range(5)]
    async with asyncio.timeout(support.SECONDS):
        seen = await asyncio.gather(*followers)
    whole = log_file(host, job_id).read_text()
    assert support.texts(whole) == [str(n) for i in range(1, 61) for n in range(i, 201)]
    assert [text for text, _ in seen] == [whole] * 5
    assert sum(cuts for _, cuts in seen) > 10


def lines_of(part: str) -> list[str]:
    return [f"{part} {n}" for n in range(1, 501)]


@pytest.mark.parametrize("ending", ["terminate", "kill"])
async def test_follow_across_a_restart_of_the_api(api: ApiFactory, ending: str) -> None:
    running = api()
    parts = ["one", "two", "three"]
    steps = [f"for i in $(seq 500); do echo {part} $i; done; gate {part}" for part in parts]
    job_id = await support.submit(running.client, GATE.format("; ".join(steps)))
    config = ClientConfig(token=running.token, api_url=running.url, retry_base_delay_ms=50)
    got: list[str] = []
    arrived = {part: asyncio.Event() for part in parts}

    async def follow() -> int:
        last = 0
        async with FlashpodsClient(config) as client:
            async for text, cursor in client.follow(job_id):
                last = cursor
                got.append(text)
                for part in parts:
                    if f"] {part} 500\n" in text:
                        arrived[part].set()
        return last

    follower = asyncio.create_task(follow())
    async with asyncio.timeout(3 * support.SECONDS):
        await arrived["one"].wait()
        if ending == "terminate":
            assert running.terminate() == 0  # an open stream does not keep it
        else:
            running.kill()
        open_gate(running, job_id, "one")  # the job goes on with nobody there to read
        await support.true_soon(
            lambda: b"two 500\n" in (running.settings.paths.capture / job_id / "raw").read_bytes(),
            "the job writes while the API is down",
        )
        running.start()
        await arrived["two"].wait()
        open_gate(running, job_id, "two")
        open_gate(running, job_id, "three")
        cursor = await follower
    whole = log_file(running, job_id).read_text()
    assert "".join(got) == whole
    assert cursor == len(whole)
    assert support.texts(whole) == [line for part in parts for line in lines_of(part)]
    row = await support.ended(running.client, job_id)
    assert (row["status"], row["exit_code"]) == ("completed", 0)
    again, _ = await support.follow_to_end(running.client, job_id)
    assert again == whole


async def test_an_old_cursor_outlives_a_kill(api: ApiFactory) -> None:
    """The offsets that a reader holds stay true when a killed API goes back to its checkpoint."""
    running = api()
    steps = "seq 1 3000; gate one; seq 3001 6000; gate two"
    job_id = await support.submit(running.client, GATE.format(steps))
    async with asyncio.timeout(3 * support.SECONDS):
        cursor, text = 0, ""
        async with support.follow(running.client, job_id) as stream:
            async for event in stream:
                text, cursor = text + event.data + "\n", event.id
                if "] 3000\n" in text:
                    break
        for _ in range(2):
            running.kill()
            running.start()
            found = await page(running.client, job_id, offset=0, limit=MB)
            assert found["output"] == text[: len(found["output"])]
        open_gate(running, job_id, "one")
        open_gate(running, job_id, "two")
        rest, end = await support.follow_to_end(running.client, job_id, offset=cursor)
    assert text + rest == log_file(running, job_id).read_text()
    assert support.texts(text + rest) == [str(n) for n in range(1, 6001)]
    assert end.id == len(text + rest)
