"""flashpods-mcp against the real stack: every tool as an agent uses it."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import support
from mcp import Client, MCPError
from mcp_rig import (
    NOBODY,
    Seen,
    call,
    connected,
    environment_of,
    finished,
    refused,
    structured,
)
from support import Connected

from flashpods_dev.stack import MiniStack


@pytest.fixture
def env(shared: MiniStack, tmp_path: Path) -> dict[str, str]:
    return environment_of(shared, tmp_path)


@pytest.fixture
async def agent(env: dict[str, str], tmp_path: Path) -> AsyncIterator[Client]:
    """The official client, connected to a server of its own."""
    async with connected(env, tmp_path) as client:
        yield client


def content(path: Path) -> str:
    return path.read_text()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "project"
    for name in (".git/HEAD", "src/main.c", "node_modules/x/index.js"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(f"this is {name}\n")
    return tree


async def test_the_whole_way_of_a_worker(agent: Client, tree: Path, tmp_path: Path) -> None:
    spawned = await call(
        agent,
        "spawn_worker",
        command="cat src/main.c; ls -a; seq 1000; echo 'x.c:3: error: bad'; echo after; "
        "echo hi > /artifacts/report.txt; mkdir /artifacts/d; exit 3",
        files={"local_path": str(tree)},
        cpus=1,
        memory_gb=1,
        timeout_minutes=5,
    )
    assert (spawned["cpus"], spawned["memory_gb"], spawned["timeout_minutes"]) == (1, 1, 5)
    assert spawned["uploaded_files"] == 1  # .git and node_modules stayed here
    job_id = spawned["job_id"]
    seen = Seen()
    waited = await agent.call_tool(
        "wait_for_job", {"job_id": job_id, "timeout_seconds": 90}, progress_callback=seen
    )
    ended = structured(waited)
    assert (ended["status"], ended["exit_code"], ended["finished"]) == ("failed", 3, True)
    assert ended["artifacts"] == ["d", "report.txt"]
    assert ended["output_tail"].splitlines()[-2:] == ["x.c:3: error: bad", "after"]
    assert all(a < b for a, b in zip(seen.values, seen.values[1:], strict=False))
    details = await call(agent, "get_job_status", job_id=job_id)
    assert [event["status"] for event in details["events"]][-1] == "failed"
    jobs = await call(agent, "list_jobs", status="failed", limit=100)
    assert job_id in [job["job_id"] for job in jobs["jobs"]]
    await output_by_tools(agent, job_id)
    await artifacts_by_tools(agent, job_id, tmp_path / "flashpods-artifacts" / job_id)
    await read_as_resources(agent, job_id)
    refused(await agent.call_tool("kill_job", {"job_id": job_id}), "job_already_terminal")


async def output_by_tools(agent: Client, job_id: str) -> None:
    output = await call(agent, "get_job_output", job_id=job_id, tail=3)
    assert support.texts(output["output"]) == ["1000", "x.c:3: error: bad", "after"]
    found = await call(agent, "search_output", job_id=job_id, before=2, after=1)
    (excerpt,) = found["excerpts"]
    assert excerpt["text"] == "999\n1000\nx.c:3: error: bad\nafter"
    assert found["lines_searched"] == excerpt["last_line"]
    assert found["matches"] == 1


async def artifacts_by_tools(agent: Client, job_id: str, where: Path) -> None:
    listed = await call(agent, "get_job_artifacts", job_id=job_id)
    assert [item["name"] for item in listed["artifacts"]] == ["d", "report.txt"]
    got = await call(agent, "download_artifact", job_id=job_id, artifact_name="report.txt")
    assert (got["path"], content(where / "report.txt")) == (str(where / "report.txt"), "hi\n")
    assert got["sha256"] == listed["artifacts"][1]["sha256"]


async def read_as_resources(agent: Client, job_id: str) -> None:
    log = (await agent.read_resource(f"flashpods://jobs/{job_id}/log")).contents[0]
    assert "x.c:3: error: bad" in log.text  # type: ignore[union-attr] # it is text
    report = await agent.read_resource(f"flashpods://jobs/{job_id}/artifacts/report.txt")
    assert report.contents[0].text == "hi\n"  # type: ignore[union-attr] # likewise
    rows = await agent.read_resource(f"flashpods://jobs/{job_id}/artifacts")
    assert json.loads(rows.contents[0].text)[0]["name"] == "d"  # type: ignore[union-attr] # likewise
    there = {f"flashpods://jobs/{job_id}/log", f"flashpods://jobs/{job_id}/artifacts"}
    for _ in range(10):  # a list has three seconds, and is empty after that
        uris = {str(row.uri) for row in (await agent.list_resources()).resources}
        if there <= uris:
            break
    assert there <= uris
    for wrong, error in (
        (f"{NOBODY}/log", "job_not_found"),
        (f"{job_id}/artifacts/none", "artifact_not_found"),
        (f"{job_id}/artifacts/d", "artifact_too_large"),
    ):
        with pytest.raises(MCPError) as raised:
            await agent.read_resource(f"flashpods://jobs/{wrong}")
        assert json.loads(raised.value.message)["error"] == error


async def test_a_binary_artifact_is_a_blob(agent: Client) -> None:
    spawned = await call(agent, "spawn_worker", command=r"printf '\377\000' > /artifacts/b", cpus=1)
    await finished(agent, spawned["job_id"])
    read = await agent.read_resource(f"flashpods://jobs/{spawned['job_id']}/artifacts/b")
    assert base64.b64decode(read.contents[0].blob) == b"\xff\0"  # type: ignore[union-attr] # it is bytes


async def test_a_sub_agent_gets_its_git_directory(agent: Client, tree: Path) -> None:
    for exclude in (None, [".git", "node_modules", "/.git/"]):
        spawned = await call(
            agent,
            "spawn_sub_agent",
            task="say hello",
            git_branch="b",
            context="none",
            files={"local_path": str(tree), "exclude": exclude},
            cpus=1,
            memory_gb=1,
        )
        assert spawned["uploaded_files"] == 2  # .git/HEAD and src/main.c
        assert bool(spawned["warnings"]) == (exclude is not None)
        # Without a repository it may have failed by itself before it is killed.
        await agent.call_tool("kill_job", {"job_id": spawned["job_id"]})
        await finished(agent, spawned["job_id"])


async def test_a_cancelled_wait_leaves_the_job_alone(agent: Client, host: Connected) -> None:
    job_id = (await call(agent, "spawn_worker", command="sleep 600", cpus=1))["job_id"]
    seen = Seen()
    waiting = asyncio.create_task(
        agent.call_tool("wait_for_job", {"job_id": job_id}, progress_callback=seen)
    )
    await asyncio.wait_for(seen.first.wait(), support.SECONDS)
    assert job_id in seen.messages[0]
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (await call(agent, "get_job_status", job_id=job_id))["finished"] is False
    short = await call(agent, "wait_for_job", job_id=job_id, timeout_seconds=1)
    assert short["finished"] is False
    assert "again" in short["next"]
    assert (await support.row_of(host.client, job_id))["cancel_requested"] is False
    refused(
        await agent.call_tool("wait_for_job", {"job_id": job_id, "timeout_seconds": 100}),
        "invalid_arguments",
    )
    await call(agent, "kill_job", job_id=job_id)
    await finished(agent, job_id)


async def test_a_pattern_without_end_is_given_up(
    agent: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = "echo aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab; echo Fine; echo fine"
    job_id = (await call(agent, "spawn_worker", command=command, cpus=1))["job_id"]
    await finished(agent, job_id)
    found = await call(agent, "search_output", job_id=job_id, pattern="^fine$", ignore_case=True)
    assert found["matches"] == 2
    nothing = await call(agent, "search_output", job_id=job_id, pattern="nowhere")
    assert (nothing["matches"], nothing["note"]) == (0, "nothing matches; these are the last lines")
    assert nothing["excerpts"][0]["text"].endswith("Fine\nfine")
    slow = asyncio.create_task(
        agent.call_tool("search_output", {"job_id": job_id, "pattern": "(a+)+$"})
    )
    # Meanwhile everything else goes on: the search is not in the server's own process.
    for _ in range(5):
        assert (await call(agent, "get_job_status", job_id=job_id))["finished"]
    refused(await slow, "search_too_slow")
