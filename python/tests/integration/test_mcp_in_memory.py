"""The MCP server, in this process, against the API in memory: what needs no container."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_rig import TOKEN, Rig, make_rig
from mcp import Client, MCPError
from mcp.client import advertise
from mcp_types import Request, RequestParams, Result, TextContent
from pydantic import ConfigDict, Field

from flashpods.client import FlashpodsClient
from flashpods.client.config import ClientConfig
from flashpods.jobs.model import Outcome
from flashpods.jobs.states import Trigger
from flashpods.mcp.host import Host
from flashpods.mcp.server import FlashpodsServer
from flashpods.mcp.tasks import EXTENSION

NOBODY = "0123456789abcdef"


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return make_rig(tmp_path)


@pytest.fixture
async def server(rig: Rig) -> AsyncIterator[FlashpodsServer]:
    config = ClientConfig(token=TOKEN, api_url="http://api", retry_max_attempts=0)
    transport = httpx.ASGITransport(app=rig.app, raise_app_exceptions=False)
    host = Host(lambda: config)
    async with FlashpodsClient(config, transport=transport) as client:
        host._client = client
        yield FlashpodsServer(host)


async def ended(rig: Rig, exit_code: int = 0) -> str:
    job_id = await rig.job()
    await rig.move(job_id, Trigger.LAUNCH)
    await rig.move(job_id, Trigger.STARTED)
    ending = Trigger.SUCCEED if exit_code == 0 else Trigger.FAIL
    await rig.move(job_id, ending, outcome=Outcome(exit_code=exit_code))
    return job_id


class Answer(Result):
    """Whatever a ``tasks/`` method answers."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)


class Params(RequestParams):
    """The parameters of a ``tasks/`` method."""

    task_id: str = Field(alias="taskId")


class Call(RequestParams):
    """The parameters of ``tools/call``, sent by hand: the client would refuse the answer."""

    name: str
    arguments: dict[str, str]


class Ask(Request[Params, str]):
    """A ``tasks/`` method."""

    method: str
    params: Params


async def ask(client: Client, method: str, task_id: str) -> dict[str, Any]:
    request = Ask(method=method, params=Params(taskId=task_id))
    answer = await client.session.send_request(request, Answer)
    shown: dict[str, Any] = answer.model_dump(by_alias=True, mode="json")
    return shown


async def test_a_resource_that_is_not_there_says_why(rig: Rig, server: FlashpodsServer) -> None:
    job_id = await ended(rig)
    async with Client(server) as client:
        for uri, code, number in (
            (f"{NOBODY}/log", "job_not_found", -32602),
            (f"{job_id}/artifacts/none", "artifact_not_found", -32602),
            (f"{job_id}/artifacts/a%5Cb", "invalid_artifact_name", -32603),
        ):
            with pytest.raises(MCPError) as raised:
                await client.read_resource(f"flashpods://jobs/{uri}")
            assert json.loads(raised.value.message)["error"] == code
            assert raised.value.code == number
        listing = await client.read_resource(f"flashpods://jobs/{job_id}/artifacts")
        assert json.loads(listing.contents[0].text) == []  # type: ignore[union-attr] # it is text


async def test_tasks_are_the_jobs(rig: Rig, server: FlashpodsServer) -> None:
    running = await rig.job()
    await rig.move(running, Trigger.LAUNCH)
    done = await ended(rig, exit_code=3)
    async with Client(server, extensions=[advertise(EXTENSION)]) as client:
        call = Call(name="wait_for_job", arguments={"job_id": running})
        request = Request[Call, str](method="tools/call", params=call)
        seed = await client.session.send_request(request, Answer)
        assert seed.model_dump(by_alias=True)["resultType"] == "task"
        answer = await ask(client, "tasks/get", running)
        assert (answer["taskId"], answer["status"], answer["resultType"]) == (
            running,
            "working",
            "complete",
        )
        assert "starting" in answer["statusMessage"]
        answer = await ask(client, "tasks/get", done)
        assert answer["status"] == "completed"  # the wait is; the job failed
        assert answer["result"]["structuredContent"]["exit_code"] == 3
        for method in ("tasks/cancel", "tasks/update"):
            await ask(client, method, running)
            with pytest.raises(MCPError) as raised:
                await ask(client, method, NOBODY)
            assert raised.value.code == -32602
        job = await rig.store.get(running)
        assert job is not None
        assert job.cancel_requested_at is None


async def test_a_crash_of_ours_is_told_without_its_text(
    rig: Rig, server: FlashpodsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await server.host.client()

    async def crash(_: str) -> None:
        raise KeyError("a secret")

    monkeypatch.setattr(client, "get_job", crash)
    async with Client(server) as agent:
        result = await agent.call_tool("get_job_status", {"job_id": NOBODY})
    (block,) = result.content
    assert isinstance(block, TextContent)
    answer = json.loads(block.text)
    assert answer["error"] == "internal_error"
    assert "KeyError" in answer["message"]
    assert "secret" not in answer["message"]


async def test_what_is_wrong_with_the_laptop_is_told(
    server: FlashpodsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    async with Client(server) as agent:
        arguments = {"command": "true", "files": {"local_path": "."}}
        result = await agent.call_tool("spawn_worker", arguments)
    (block,) = result.content
    assert isinstance(block, TextContent)
    answer = json.loads(block.text)
    assert answer["error"] == "local_failure"
    assert "No such file or directory" in answer["message"]
