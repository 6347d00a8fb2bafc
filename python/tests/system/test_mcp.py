"""flashpods-mcp against the real stack: every tool, every failure, cancellation, two clients."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Literal

import mcp_rig
import pytest
import support
from mcp import Client, MCPError
from mcp.client import ClaimContext, ClientExtension, ResultClaim, advertise
from mcp_rig import Seen, call, connected, finished, refused, structured
from mcp_types import CallToolResult, Request, RequestParams, Result, TextContent
from pydantic import ConfigDict, Field
from support import Connected

from flashpods_dev.stack import MiniStack

NOBODY = "0123456789abcdef"
TASKS = "io.modelcontextprotocol/tasks"


@pytest.fixture
def env(shared: MiniStack, tmp_path: Path) -> dict[str, str]:
    token = shared.layout.token.read_text().strip()
    return mcp_rig.environment(shared.api_url, shared.info.rsync_url, token, tmp_path)


@pytest.fixture
async def agent(env: dict[str, str], tmp_path: Path) -> AsyncIterator[Client]:
    """The official client, connected to a server of its own."""
    async with connected(env, tmp_path) as client:
        yield client


def content(path: Path) -> str:
    return path.read_text()


def listing(path: Path) -> list[Path]:
    return sorted(path.rglob("*"))


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
    output = await call(agent, "get_job_output", job_id=job_id, tail=3)
    assert support.texts(output["output"]) == ["1000", "x.c:3: error: bad", "after"]
    found = await call(agent, "search_output", job_id=job_id, before=2, after=1)
    (excerpt,) = found["excerpts"]
    assert excerpt["text"] == "999\n1000\nx.c:3: error: bad\nafter"
    assert found["lines_searched"] == excerpt["last_line"]
    assert found["matches"] == 1
    listed = await call(agent, "get_job_artifacts", job_id=job_id)
    assert [item["name"] for item in listed["artifacts"]] == ["d", "report.txt"]
    got = await call(agent, "download_artifact", job_id=job_id, artifact_name="report.txt")
    where = tmp_path / "flashpods-artifacts" / job_id / "report.txt"
    assert (got["path"], content(where)) == (str(where), "hi\n")
    assert got["sha256"] == listed["artifacts"][1]["sha256"]
    jobs = await call(agent, "list_jobs", status="failed", limit=100)
    assert job_id in [job["job_id"] for job in jobs["jobs"]]
    refused(await agent.call_tool("kill_job", {"job_id": job_id}), "job_already_terminal")

    log = (await agent.read_resource(f"flashpods://jobs/{job_id}/log")).contents[0]
    assert "x.c:3: error: bad" in log.text  # type: ignore[union-attr] # it is text
    report = await agent.read_resource(f"flashpods://jobs/{job_id}/artifacts/report.txt")
    assert report.contents[0].text == "hi\n"  # type: ignore[union-attr] # likewise
    rows = await agent.read_resource(f"flashpods://jobs/{job_id}/artifacts")
    assert json.loads(rows.contents[0].text)[0]["name"] == "d"  # type: ignore[union-attr] # likewise
    uris = {str(row.uri) for row in (await agent.list_resources()).resources}
    assert {f"flashpods://jobs/{job_id}/log", f"flashpods://jobs/{job_id}/artifacts"} <= uris
    for wrong in (f"{NOBODY}/log", f"{job_id}/artifacts/none", f"{job_id}/artifacts/d"):
        with pytest.raises(MCPError) as raised:
            await agent.read_resource(f"flashpods://jobs/{wrong}")
        assert json.loads(raised.value.message)["error"] in {
            "job_not_found", "artifact_not_found", "artifact_too_large",
        }  # fmt: skip


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
        await call(agent, "kill_job", job_id=spawned["job_id"])
        await finished(agent, spawned["job_id"])


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
    job_id = (await call(agent, "spawn_worker", command="sleep 60", cpus=1))["job_id"]
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


async def test_a_cancelled_wait_leaves_the_job_alone(agent: Client, host: Connected) -> None:
    job_id = (await call(agent, "spawn_worker", command="sleep 600", cpus=1))["job_id"]
    seen = Seen()
    waiting = asyncio.create_task(
        agent.call_tool("wait_for_job", {"job_id": job_id}, progress_callback=seen)
    )
    await asyncio.wait_for(seen.first.wait(), 30)
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


async def test_two_clients_and_both_eras_at_once(env: dict[str, str], tmp_path: Path) -> None:
    async with (
        connected(env, tmp_path) as new,
        connected(env, tmp_path, mode="legacy") as old,
    ):
        assert (new.protocol_version, old.protocol_version) == ("2026-07-28", "2025-11-25")
        commands = [(new, "echo new"), (old, "echo old")] * 3
        spawned = await asyncio.gather(
            *(call(c, "spawn_worker", command=text, cpus=1, memory_gb=1) for c, text in commands)
        )
        ids = [answer["job_id"] for answer in spawned]
        assert len(set(ids)) == 6
        # Each sees the jobs of the other.
        ended = await asyncio.gather(
            *(
                finished(old if c is new else new, i)
                for i, (c, _) in zip(ids, commands, strict=True)
            )
        )
        said = [answer["output_tail"].split()[-1] for answer in ended]
        assert said == ["new", "old"] * 3


async def test_a_killed_server_leaves_its_jobs_to_the_next(
    env: dict[str, str], tmp_path: Path, host: Connected
) -> None:
    process = await asyncio.create_subprocess_exec(
        mcp_rig.PROGRAM,
        env=env,
        cwd=tmp_path,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        meta = {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
        }
        arguments = {"command": "sleep 600", "cpus": 1}
        params: dict[str, Any] = {"name": "spawn_worker", "arguments": arguments, "_meta": meta}
        request = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        process.stdin.write(json.dumps(request).encode() + b"\n")
        async with asyncio.timeout(30):
            answer = json.loads(await process.stdout.readline())
        job_id = answer["result"]["structuredContent"]["job_id"]
        params = {"name": "wait_for_job", "arguments": {"job_id": job_id}, "_meta": meta}
        request = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params}
        process.stdin.write(json.dumps(request).encode() + b"\n")
        await process.stdin.drain()
    finally:
        process.kill()
        await process.communicate()
    async with connected(env, tmp_path) as agent:
        active = await call(agent, "list_jobs", status="active", limit=100)
        assert job_id in [job["job_id"] for job in active["jobs"]]
        await support.until(host.client, job_id, "running")
        assert (await support.row_of(host.client, job_id))["cancel_requested"] is False
        await call(agent, "kill_job", job_id=job_id)
        ended = await finished(agent, job_id)
        assert ended["status"] == "cancelled"


async def test_nothing_but_the_protocol_on_stdout(env: dict[str, str], tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(mcp_rig.PROGRAM, "--log-level", "debug"),
        env=env,
        cwd=tmp_path,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    init: dict[str, object] = {"protocolVersion": "2025-11-25", "capabilities": {}}
    init["clientInfo"] = {"name": "t", "version": "1"}
    lines: list[Any] = [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": init},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "list_jobs"}},
        {"jsonrpc": "2.0", "id": 3, "method": "no/such"},
    ]
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(b"this is no JSON\n")
        process.stdin.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
        got: dict[int | None, Any] = {}
        async with asyncio.timeout(30):
            while not {1, 2, 3} <= set(got):
                message = json.loads(await process.stdout.readline())
                assert message["jsonrpc"] == "2.0"
                got[message.get("id")] = message
        process.stdin.close()
        async with asyncio.timeout(30):
            rest, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0
    assert all(json.loads(line)["jsonrpc"] == "2.0" for line in rest.splitlines())
    assert got[2]["result"]["isError"] is False
    assert got[3]["error"]["code"] == -32601
    assert b"flashpods-mcp: " in errors
    assert env["FLASHPODS_API_TOKEN"].encode() not in errors


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


# ------------------------------------------------------------------ the tasks extension


class Task(Result):
    """The task of a wait, as it comes for a ``tools/call`` or a ``tasks/get``."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)
    result_type: Literal["task"] = Field(default="task", alias="resultType")
    task_id: str = Field(alias="taskId")
    status: str


class TaskAnswer(Result):
    """The answer of a ``tasks/`` method."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)


class TaskParams(RequestParams):
    """The parameters of a ``tasks/`` method."""

    task_id: str = Field(alias="taskId")


class TaskRequest(Request[TaskParams, str]):
    """A ``tasks/`` method."""

    method: str
    params: TaskParams


class Tasks(ClientExtension):
    """Polls a task to its end, as a client with the extension does."""

    identifier = TASKS

    def __init__(self) -> None:
        """Have seen no task yet."""
        self.seen: list[str] = []
        self.first = asyncio.Event()

    def claims(self) -> Sequence[ResultClaim[Any]]:
        """Claim the results that are tasks."""
        return [ResultClaim(result_type="task", model=Task, resolve=self._resolve)]

    async def _resolve(self, task: Task, context: ClaimContext) -> CallToolResult:
        self.seen.append(task.task_id)
        self.first.set()
        async with asyncio.timeout(60):
            while True:
                answer = await ask(context.session, "tasks/get", task.task_id)
                if answer["status"] != "working":
                    assert answer["status"] == "completed"
                    return CallToolResult.model_validate(answer["result"])
                await asyncio.sleep(0.2)


async def ask(session: Any, method: str, task_id: str) -> dict[str, Any]:
    """Send a ``tasks/`` request."""
    request = TaskRequest(method=method, params=TaskParams(taskId=task_id))
    answer = await session.send_request(request, TaskAnswer)
    shown: dict[str, Any] = answer.model_dump(by_alias=True)
    return shown


async def test_a_wait_is_a_task_with_the_jobs_id(
    env: dict[str, str], tmp_path: Path, host: Connected
) -> None:
    tasks = Tasks()
    async with connected(env, tmp_path, extensions=[tasks]) as agent:
        assert agent.server_capabilities.extensions == {TASKS: {}}
        spawned = await call(agent, "spawn_worker", command="sleep 600", cpus=1)
        job_id = spawned["job_id"]
        await support.until(host.client, job_id, "running")
        waiting = asyncio.create_task(finished(agent, job_id))
        await asyncio.wait_for(tasks.first.wait(), 30)
        await call(agent, "kill_job", job_id=job_id)
        ended = await waiting
        assert tasks.seen == [job_id]
        assert ended["status"] == "cancelled"
        # A job that has ended needs no task.
        assert (await finished(agent, job_id))["status"] == "cancelled"
        assert tasks.seen == [job_id]
        refused(await agent.call_tool("wait_for_job", {"job_id": NOBODY}), "job_not_found")
    # Another process, as after a restart, knows the task all the same; so it does without a wait.
    async with connected(env, tmp_path, extensions=[advertise(TASKS)]) as agent:
        answer = await ask(agent.session, "tasks/get", job_id)
        assert answer["status"] == "completed"
        assert answer["result"]["structuredContent"]["status"] == "cancelled"
        running = (await call(agent, "spawn_worker", command="sleep 600", cpus=1))["job_id"]
        answer = await ask(agent.session, "tasks/get", running)
        assert (answer["taskId"], answer["status"], answer["ttlMs"]) == (running, "working", None)
        for method in ("tasks/cancel", "tasks/update"):
            await ask(agent.session, method, running)
        assert (await call(agent, "get_job_status", job_id=running))["cancel_requested"] is False
        with pytest.raises(MCPError) as raised:
            await ask(agent.session, "tasks/get", NOBODY)
        assert raised.value.code == -32602
        await call(agent, "kill_job", job_id=running)


async def test_without_the_extension_there_are_no_tasks(agent: Client) -> None:
    with pytest.raises(MCPError) as raised:
        await ask(agent.session, "tasks/get", NOBODY)
    assert raised.value.code == -32021
    job_id = (await call(agent, "spawn_worker", command="true", cpus=1))["job_id"]
    result = await agent.call_tool("wait_for_job", {"job_id": job_id})
    assert isinstance(result.content[0], TextContent)
    assert structured(result)["finished"]
