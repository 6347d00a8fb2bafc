"""What flashpods-mcp refuses, so that a model can act on it, and where it never writes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from mcp import Client
from mcp_rig import NOBODY, call, connected, environment_of, finished, refused
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


def listing(path: Path) -> list[Path]:
    return sorted(path.rglob("*"))


async def test_failures_are_told_so_that_a_model_can_act(
    agent: Client, host: Connected, tmp_path: Path
) -> None:
    before = (await host.client.get("/jobs")).json()["total"]
    for name, arguments in (
        ("get_job_status", {}),
        ("get_job_output", {}),
        ("get_job_artifacts", {}),
        ("download_artifact", {"artifact_name": "x"}),
        ("wait_for_job", {}),
        ("search_output", {}),
        ("kill_job", {}),
    ):
        for job_id in (NOBODY, "../../etc/passwd", "x"):
            refused(await agent.call_tool(name, {"job_id": job_id, **arguments}), "job_not_found")
    for given, code, words in (
        ({"command": "true", "cpus": 0}, "invalid_arguments", "cpus"),
        ({"command": "", "cpus": 1}, "invalid_arguments", "command"),
        ({}, "invalid_arguments", "command"),
        ({"command": "true", "cpu": 1}, "invalid_arguments", "did you mean cpus"),
        ({"command": "true", "image": "UPPER:x"}, "invalid_image", "image"),
        ({"command": "true", "files": {"local_path": "/nowhere"}}, "invalid_local_path", "exist"),
        ({"command": "true", "files": {"local_path": "/"}}, "invalid_local_path", "secrets"),
        ({"command": "true", "files": {"local_path": str(tmp_path)}}, "invalid_local_path", "home"),
        ({"command": "true", "files": {"path": "."}}, "invalid_arguments", "local_path"),
    ):
        answer = refused(await agent.call_tool("spawn_worker", given), code)
        assert words in answer["message"] or words == "home", answer
    refused(await agent.call_tool("spawn_sub_agent", {"task": "x"}), "invalid_arguments")
    odd_branch = {"task": "x", "git_branch": "-x"}
    refused(await agent.call_tool("spawn_sub_agent", odd_branch), "invalid_request")
    refused(await agent.call_tool("list_jobs", {"status": "gone"}), "invalid_arguments")
    refused(await agent.call_tool("list_jobs", {"limit": 101}), "invalid_arguments")
    refused(await agent.call_tool("wait_for_many", {"batch_id": "batch_x"}), "batch_not_found")
    refused(await agent.call_tool("no_such_tool", {}), "unknown_tool")
    job_id = (await call(agent, "spawn_worker", command="sleep 600", cpus=1))["job_id"]
    for name, more in (("get_job_artifacts", {}), ("download_artifact", {"artifact_name": "x"})):
        answer = refused(
            await agent.call_tool(name, {"job_id": job_id, **more}), "artifacts_not_available"
        )
        assert "wait_for_job" in answer["message"]
    refused(
        await agent.call_tool("search_output", {"job_id": job_id, "pattern": "("}),
        "invalid_pattern",
    )
    assert (await call(agent, "kill_job", job_id=job_id))["status"] == "cancelled"
    assert (await call(agent, "kill_job", job_id=job_id))["status"] == "cancelled"
    assert (await finished(agent, job_id))["status"] == "cancelled"
    assert (await host.client.get("/jobs")).json()["total"] == before + 1


async def test_what_the_laptop_lacks_is_told(env: dict[str, str], tmp_path: Path) -> None:
    for change, code, words in (
        ({"FLASHPODS_API_TOKEN": ""}, "missing_token", "FLASHPODS_API_TOKEN"),
        ({"FLASHPODS_API_TOKEN": "wrong"}, "invalid_token", "user"),
        ({"FLASHPODS_API_URL": "http://127.0.0.1:1"}, "host_unreachable", "tunnel"),
        ({"FLASHPODS_PORT": "x", "FLASHPODS_API_URL": ""}, "invalid_config", "FLASHPODS_PORT"),
    ):
        async with connected({**env, **change}, tmp_path) as agent:
            answer = refused(await agent.call_tool("list_jobs", {}), code)
            assert words in answer["message"]
            assert "wrong" not in answer["message"]
            assert (await agent.list_resources()).resources == []
    quiet = {**env, "PATH": str(tmp_path)}
    async with connected(quiet, tmp_path) as agent:
        (tmp_path / "p").mkdir()
        files = {"local_path": str(tmp_path / "p")}
        result = await agent.call_tool("spawn_worker", {"command": "true", "files": files})
        assert "install it" in refused(result, "rsync_missing")["message"]


async def test_a_token_that_comes_later_needs_no_restart(
    env: dict[str, str], tmp_path: Path
) -> None:
    token = env.pop("FLASHPODS_API_TOKEN")
    file = tmp_path / "later"
    async with connected({**env, "FLASHPODS_API_TOKEN_FILE": str(file)}, tmp_path) as agent:
        refused(await agent.call_tool("list_jobs", {}), "missing_token")
        file.write_text(token)
        assert "jobs" in await call(agent, "list_jobs")


async def test_names_and_places_never_lead_out(agent: Client, tmp_path: Path) -> None:
    command = "cd /artifacts; echo data > ok; ln -s /etc/passwd link"
    job_id = (await call(agent, "spawn_worker", command=command, cpus=1))["job_id"]
    await finished(agent, job_id)
    victim = tmp_path / "victim"
    victim.write_text("mine")
    target = tmp_path / "in" / "ok"
    target.parent.mkdir()
    target.symlink_to(victim)
    got = await call(
        agent, "download_artifact", job_id=job_id, artifact_name="ok", save_to=str(target)
    )
    assert Path(got["path"]) == target
    assert (target.is_symlink(), target.read_text()) == (False, "data\n")  # replaced, not followed
    assert victim.read_text() == "mine"
    before = listing(tmp_path)
    for name in ("../ok", "/etc/passwd", "..", ".", "a/b", "a\\b", " ok", "o\0k"):
        answer = await agent.call_tool(
            "download_artifact", {"job_id": job_id, "artifact_name": name}
        )
        refused(answer, "invalid_artifact_name")
    for name in ("link", "passwd", "nothing"):
        answer = await agent.call_tool(
            "download_artifact", {"job_id": job_id, "artifact_name": name}
        )
        refused(answer, "artifact_not_found")
    (tmp_path / "in" / "dir").mkdir()
    (tmp_path / "in" / "dir" / "ok").mkdir()
    for place in (
        str(victim / "x"),
        str(victim / "x") + "/",
        str(tmp_path / "none" / "x"),
        str(tmp_path / "in" / "dir"),
        "/proc/none/",
        "/dev/null/x",
    ):
        answer = await agent.call_tool(
            "download_artifact", {"job_id": job_id, "artifact_name": "ok", "save_to": place}
        )
        refused(answer, "invalid_target")
    (tmp_path / "in" / "dir" / "ok").rmdir()
    (tmp_path / "in" / "dir").rmdir()
    assert listing(tmp_path) == before


async def test_a_link_that_a_tree_brought_is_not_gone_through(
    agent: Client, tmp_path: Path
) -> None:
    """The server is started in a project, which may hold anything."""
    spawned = await call(agent, "spawn_worker", command="echo data > /artifacts/ok", cpus=1)
    job_id = spawned["job_id"]
    await finished(agent, job_id)
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "flashpods-artifacts").symlink_to(outside)
    (tmp_path / "planted").symlink_to(outside)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "planted").symlink_to(outside)
    arguments = {"job_id": job_id, "artifact_name": "ok"}
    for place in (None, "planted/", "planted/ok", "in/planted/", "in/planted/new/"):
        told = arguments if place is None else {**arguments, "save_to": place}
        answer = await agent.call_tool("download_artifact", told)
        assert "no link" in refused(answer, "invalid_target")["message"]
    assert list(outside.iterdir()) == []
    here = await call(agent, "download_artifact", **arguments, save_to="in/")
    assert here["path"] == str(tmp_path / "in" / "ok")
    said = await call(agent, "download_artifact", **arguments, save_to=f"{outside}/")
    assert said["path"] == str(outside / "ok")
