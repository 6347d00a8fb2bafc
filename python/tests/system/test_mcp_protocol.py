"""flashpods-mcp as a server: both eras at once, a kill, its standard output, tasks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import mcp_rig
import pytest
import support
from mcp import MCPError
from mcp.client import ClaimContext, ClientExtension, ResultClaim, advertise
from mcp_rig import NOBODY, call, connected, environment_of, finished, refused, structured
from mcp_types import CallToolResult, Request, RequestParams, Result, TextContent
from pydantic import ConfigDict, Field
from support import Connected

from flashpods_dev.stack import MiniStack

TASKS = "io.modelcontextprotocol/tasks"


@pytest.fixture
def env(shared: MiniStack, tmp_path: Path) -> dict[str, str]:
    return environment_of(shared, tmp_path)


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
        async with asyncio.timeout(support.SECONDS):
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
        async with asyncio.timeout(support.SECONDS):
            while not {1, 2, 3} <= set(got):
                message = json.loads(await process.stdout.readline())
                assert message["jsonrpc"] == "2.0"
                got[message.get("id")] = message
        process.stdin.close()
        async with asyncio.timeout(support.SECONDS):
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
        async with asyncio.timeout(support.SECONDS):
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
        await asyncio.wait_for(tasks.first.wait(), support.SECONDS)
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


async def test_without_the_extension_there_are_no_tasks(
    env: dict[str, str], tmp_path: Path
) -> None:
    async with connected(env, tmp_path) as agent:
        with pytest.raises(MCPError) as raised:
            await ask(agent.session, "tasks/get", NOBODY)
        assert raised.value.code == -32021
        job_id = (await call(agent, "spawn_worker", command="true", cpus=1))["job_id"]
        result = await agent.call_tool("wait_for_job", {"job_id": job_id})
        assert isinstance(result.content[0], TextContent)
        assert structured(result)["finished"]
