"""spawn_many on the real stack: one push, a queue, the first failure, a cancelled call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import support
from mcp import Client
from mcp_rig import Seen, call, connected, environment_of, refused, structured
from support import Connected

from flashpods_dev.machine import Machine
from flashpods_dev.stack import MiniStack


@pytest.fixture(scope="module")
def shared(machine: Machine) -> Iterator[MiniStack]:
    """A host with room for two jobs of one CPU."""
    with support.stack_of(
        machine, {"development": {"pretend_cpus": 2, "pretend_memory_gb": 4}}
    ) as stack:
        yield stack


@pytest.fixture
async def agent(shared: MiniStack, tmp_path: Path) -> AsyncIterator[Client]:
    # Without the client's own retries what has no room is the queue's at once.
    env = environment_of(shared, tmp_path, attempts=0)
    async with connected(env, tmp_path) as client:
        yield client


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "project"
    tree.mkdir()
    (tree / "data").write_bytes(bytes(range(256)) * 4096)  # 1 MB
    return tree


SMALL: dict[str, Any] = {"cpus": 1, "memory_gb": 1, "timeout_minutes": 5}


async def all_of(agent: Client, answer: dict[str, Any]) -> dict[str, Any]:
    """Wait for a batch's end, however often that takes."""
    for _ in range(10):
        if answer["finished"]:
            return answer
        answer = await call(agent, "wait_for_many", batch_id=answer["batch_id"])
    raise AssertionError(answer)


async def test_one_push_a_queue_and_one_summary(agent: Client, host: Connected, tree: Path) -> None:
    seen = Seen()
    command = 'test "$(wc -c < data)" = 1048576 && touch /tmp/x && sleep 1 && exit $CODE'
    began = await agent.call_tool(
        "spawn_many",
        {
            "commands": [command],
            "matrix": {"CODE": ["0", "7"], "N": ["1", "2", "3"]},
            "files": {"local_path": str(tree)},
            **SMALL,
        },
        progress_callback=seen,
    )
    done = await all_of(agent, structured(began))
    assert done["counts"] == {"completed": 3, "failed": 3}
    assert [job["exit_code"] for job in done["jobs"]] == [0, 0, 0, 7, 7, 7]
    assert done["jobs"][4]["label"].startswith("CODE=7 N=2 ")
    assert len({job["job_id"] for job in done["jobs"]}) == 6
    assert 1_000_000 < done["sent_bytes"] < 1_500_000  # once
    assert all(a < b for a, b in zip(seen.values, seen.values[1:], strict=False))
    # No more than the host has room for ran at once: it is the host that says so.
    rows = [await support.row_of(host.client, job["job_id"]) for job in done["jobs"]]
    for row in rows:
        at_once = [r for r in rows if r["started_at"] <= row["started_at"] < r["completed_at"]]
        assert 1 <= len(at_once) <= 2
    # No upload was left: the last job took the pushed tree, the others a copy each.
    again = await call(agent, "wait_for_many", batch_id=done["batch_id"])
    assert again == done


async def test_the_first_failure_ends_it(agent: Client, host: Connected) -> None:
    before = (await host.client.get("/jobs")).json()["total"]
    done = await call(
        agent,
        "spawn_many",
        commands=["sleep 600", "echo broken; exit 4", "echo never", "echo never"],
        until="first_failure",
        kill_rest=True,
        **SMALL,
    )
    done = await all_of(agent, done)
    assert (done["finished"], done["stopped_by"]) == (True, 2)
    first, second, *rest = done["jobs"]
    assert first["status"] == "cancelled"
    assert (second["status"], second["exit_code"]) == ("failed", 4)
    assert second["output_tail"] == "broken"
    started = [job for job in rest if job["job_id"] is not None]
    assert (await host.client.get("/jobs")).json()["total"] == before + 2 + len(started)
    active = (await host.client.get("/jobs", params={"status": "active"})).json()
    assert active["total"] == 0


async def test_jobs_that_can_not_start_are_told(agent: Client) -> None:
    done = await call(
        agent, "spawn_many", commands=["true"], images=["localhost/no/image:1", "UPPER"], **SMALL
    )
    done = await all_of(agent, done)
    first, second = done["jobs"]
    assert (first["status"], second["status"]) == ("failed", "not_started")
    assert "invalid_image" in second["error"]
    for arguments, code in (
        ({"commands": []}, "invalid_arguments"),
        ({"commands": ["x"], "matrix": {"a b": ["1"]}}, "invalid_matrix"),
        ({"commands": ["x"], "files": {"local_path": "/nowhere"}}, "invalid_local_path"),
    ):
        refused(await agent.call_tool("spawn_many", arguments), code)


async def test_what_finds_no_room_in_time_is_not_started(agent: Client) -> None:
    done = await call(
        agent,
        "spawn_many",
        commands=["sleep 600"] * 3,
        queue_minutes=0,
        timeout_seconds=0,
        **SMALL,
    )
    batch = done["batch_id"]
    async with asyncio.timeout(support.SECONDS):
        while done["counts"].get("not_started") != 1:
            done = await call(agent, "wait_for_many", batch_id=batch, timeout_seconds=5)
    assert "insufficient_resources" in done["jobs"][2]["error"]
    for job in done["jobs"][:2]:
        await call(agent, "kill_job", job_id=job["job_id"])
    done = await all_of(agent, done)
    assert done["counts"] == {"cancelled": 2, "not_started": 1}


async def test_a_cancelled_batch_starts_no_more_and_kills_nothing(
    agent: Client, host: Connected, tree: Path
) -> None:
    seen = Seen()
    spawning = asyncio.create_task(
        agent.call_tool(
            "spawn_many",
            {
                "commands": ["sleep 3; echo done"] * 6,
                "files": {"local_path": str(tree)},
                **SMALL,
            },
            progress_callback=seen,
        )
    )
    async with asyncio.timeout(support.SECONDS):
        while not any("queued" in text and "running" in text for text in seen.messages):
            seen.first.clear()
            await seen.first.wait()
    spawning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await spawning
    active = (await call(agent, "list_jobs", status="active"))["jobs"]
    ended = [
        await call(agent, "wait_for_job", job_id=job["job_id"], timeout_seconds=60)
        for job in active
    ]
    assert all(job["status"] == "completed" for job in ended)
    (total,) = {(await call(agent, "list_jobs", status="active"))["total"]}
    assert total == 0  # those in the queue never came
    end = time.monotonic() + support.SECONDS
    states = {"finalized"}
    while not states <= {"consumed", "expired"}:  # what no job took is given up
        assert time.monotonic() < end, states
        states = {(await host.client.get(f"/uploads/{u}")).json()["state"] for u in uploads(host)}


def uploads(host: Connected) -> list[str]:
    """Return the ids of all uploads."""
    import sqlite3  # noqa: PLC0415 - only to look

    with sqlite3.connect(f"file:{host.stack.layout.database}?mode=ro", uri=True) as database:
        rows = [row[0] for row in database.execute("SELECT id FROM uploads")]
    database.close()
    return rows
