"""The MCP server's view while the host fails: nothing doubled, nothing half, the wait goes on."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import mcp_rig
import pytest
import support
from mcp_rig import Seen, StormyProxy, call, connected, finished, refused, structured
from running_api import ApiFactory, RunningApi
from support import Connected

from flashpods_dev.stack import MiniStack


def env_of(shared: MiniStack, url: str, home: Path) -> dict[str, str]:
    token = shared.layout.token.read_text().strip()
    return mcp_rig.environment(url, shared.info.rsync_url, token, home)


async def test_a_wait_outlives_the_api(api: ApiFactory, tmp_path: Path) -> None:
    running: RunningApi = api({"development": {"pretend_cpus": 8}})
    env = mcp_rig.environment(running.url, running.rsync_url, running.token, tmp_path)
    async with connected(env, tmp_path) as agent:
        job_id = (await call(agent, "spawn_worker", command="sleep 600", cpus=1))["job_id"]
        await support.until(running.client, job_id, "running")
        seen = Seen()
        waiting = asyncio.create_task(
            agent.call_tool(
                "wait_for_job", {"job_id": job_id, "timeout_seconds": 95}, progress_callback=seen
            )
        )
        await asyncio.wait_for(seen.first.wait(), support.SECONDS)
        await asyncio.to_thread(running.kill)
        async with asyncio.timeout(support.SECONDS):
            while not any("does not answer" in text for text in seen.messages):
                seen.first.clear()
                await seen.first.wait()
        await asyncio.to_thread(running.start)
        await call(agent, "kill_job", job_id=job_id)
        ended = structured(await waiting)
        if not ended["finished"]:  # the longest wait there is was over before the host was back
            ended = await finished(agent, job_id)
        assert ended["status"] == "cancelled"
        assert all(a < b for a, b in zip(seen.values, seen.values[1:], strict=False))


def storm(kind: str, method: str, count: int) -> mcp_rig.Verdict:
    """Return what answers the first ``count`` requests of each path of a method so."""
    return lambda line, n: kind if line.startswith(method) and n <= count else None


@pytest.mark.parametrize("kind", ["503", "429", "lose"])
async def test_a_storm_makes_one_job(
    shared: MiniStack, host: Connected, tmp_path: Path, kind: str
) -> None:
    tree = tmp_path / "project"
    tree.mkdir()
    (tree / "a").write_text("a")
    before = (await host.client.get("/jobs")).json()["total"]
    judge = storm(kind, "POST", 3 if kind == "lose" else 4)
    async with (
        StormyProxy(shared.api_url, judge) as proxy,
        connected(env_of(shared, proxy.url, tmp_path), tmp_path) as agent,
    ):
        files = {"local_path": str(tree)}
        spawned = await call(agent, "spawn_worker", command="cat a", files=files, cpus=1)
        assert (await finished(agent, spawned["job_id"]))["output_tail"] == "a"
        assert proxy.seen["POST /jobs"] > 3
    assert (await host.client.get("/jobs")).json()["total"] == before + 1


async def test_a_storm_without_end_is_told(
    shared: MiniStack, host: Connected, tmp_path: Path
) -> None:
    before = (await host.client.get("/jobs")).json()["total"]
    for kind, code in (("503", "service_unavailable"), ("429", "rate_limited")):
        async with StormyProxy(shared.api_url, storm(kind, "POST", 99)) as proxy:
            async with connected(env_of(shared, proxy.url, tmp_path), tmp_path) as agent:
                answer = await agent.call_tool("spawn_worker", {"command": "true", "cpus": 1})
                refused(answer, code)
            assert proxy.seen == {"POST /jobs": 6}  # 5 retries
    assert (await host.client.get("/jobs")).json()["total"] == before


def uneven(_line: str, n: int) -> str | None:
    """Lose every third answer, refuse every fifth request."""
    return "lose" if n % 3 == 0 else "503" if n % 5 == 0 else None


async def test_a_batch_in_a_storm_doubles_nothing(
    shared: MiniStack, host: Connected, tmp_path: Path
) -> None:
    before = (await host.client.get("/jobs")).json()["total"]
    async with (
        StormyProxy(shared.api_url, uneven) as proxy,
        connected(env_of(shared, proxy.url, tmp_path), tmp_path) as agent,
    ):
        commands = [f"echo {n}" for n in range(6)]
        answer = await call(agent, "spawn_many", commands=commands, cpus=1, memory_gb=1)
        while not answer["finished"]:
            answer = await call(agent, "wait_for_many", batch_id=answer["batch_id"])
    assert answer["counts"] == {"completed": 6}
    assert (await host.client.get("/jobs")).json()["total"] == before + 6


def cut(line: str, n: int) -> str | None:
    """Cut the first artifact off in the middle, three times, and lose the second for ever."""
    if line.endswith("/artifacts/other"):
        return "lose"
    return "half" if line.endswith("/artifacts/big") and n <= 3 else None


async def test_no_half_file_is_left(shared: MiniStack, tmp_path: Path) -> None:
    command = "head -c 3000000 /dev/urandom > /artifacts/big; cp /artifacts/big /artifacts/other"
    where = tmp_path / "out"
    where.mkdir()
    async with (
        StormyProxy(shared.api_url, cut) as proxy,
        connected(env_of(shared, proxy.url, tmp_path), tmp_path) as agent,
    ):
        job_id = (await call(agent, "spawn_worker", command=command, cpus=1))["job_id"]
        await finished(agent, job_id)
        arguments = {"job_id": job_id, "save_to": str(where)}
        got = await call(agent, "download_artifact", artifact_name="big", **arguments)
        assert got["size_bytes"] == 3_000_000
        assert proxy.seen[f"GET /jobs/{job_id}/artifacts/big"] == 4  # went on where it broke off
        answer = await agent.call_tool("download_artifact", {"artifact_name": "other", **arguments})
        refused(answer, "host_unreachable")
    assert os.listdir(where) == ["big"]  # noqa: PTH208 - names alone
