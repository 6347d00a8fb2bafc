"""What an engine that stood still was asked, by us or a process before us, it does late."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from podman_rest_rig import Server, asking, ok, serving

from flashpods.adapters.podman import rest as module
from flashpods.adapters.podman.rest import RESTLESS_SECONDS, Answer, RestClient
from flashpods.adapters.podman.runtime import PodmanRuntime
from flashpods.config import Podman
from flashpods.errors import Unavailable

PID = 7
BOUND = 60.0  # seconds: longer than a busy machine pauses
NEVER = "0001-01-01T00:00:00Z"
ABSENT = Answer(404, b"{}")


def shown(status: str) -> Answer:
    began = "2026-01-01T00:00:00Z" if status == "running" else NEVER
    state = {
        "Status": status,
        "Pid": PID,
        "StartedAt": began,
        "FinishedAt": NEVER,
        "ExitCode": 0,
        "OOMKilled": False,
    }
    labels = {"flashpods-job-id": "0"}
    found = {"Id": "0123", "Name": "job_0", "State": state, "Config": {"Labels": labels}}
    return Answer(200, json.dumps(found).encode())


class Late:
    """Shows these, one look after the other, the last for ever; counts what else it is asked."""

    def __init__(self, *looks: Answer) -> None:
        self.looks = list(looks)
        self.asked: list[str] = []

    async def call(self, method: str, path: str, **_: Any) -> Answer:
        kind = path.rsplit("/", 1)[1]
        if kind != "json":
            self.asked.append(kind)
            return Answer(204, b"")
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]


def runtime(engine: Late, proc: Path, restless: float = 0.3) -> PodmanRuntime:
    """Return a runtime that sees the container's process wait for its start.

    Args:
        restless: seconds for which its engine may do late what it was asked before.
    """
    process = proc / str(PID)
    process.mkdir()
    (process / "comm").write_text("crun\n")
    (process / "cgroup").write_text("0::/ctrs/job_0/libpod-0123\n")
    made = PodmanRuntime(Podman(socket=Path("/nowhere/podman.sock")), proc=proc)
    made._rest.call = engine.call  # type: ignore[method-assign] # the engine is not there
    made._rest._calm_at = time.monotonic() + restless
    return made


async def test_a_start_waits_for_one_that_may_be_under_way(tmp_path: Path) -> None:
    """Podman's start runs an exited container once more."""
    engine = Late(shown("initialized"), shown("initialized"), shown("running"))
    await runtime(engine, tmp_path, BOUND).start("0123")
    assert engine.asked == []


async def test_a_start_is_made_when_none_was_under_way(tmp_path: Path) -> None:
    engine = Late(shown("initialized"))
    await runtime(engine, tmp_path).start("0123")
    assert engine.asked == ["start"]


async def test_one_that_is_being_made_is_awaited(tmp_path: Path) -> None:
    found = await runtime(Late(ABSENT, ABSENT, shown("created")), tmp_path, BOUND).awaited("job_0")
    assert found is not None


async def test_one_that_nobody_makes_is_not_awaited_for_long(tmp_path: Path) -> None:
    async with asyncio.timeout(30):
        assert await runtime(Late(ABSENT), tmp_path).awaited("job_0") is None


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with serving(tmp_path / "s") as found:
        yield found


@pytest.fixture
async def client(server: Server) -> AsyncIterator[RestClient]:
    async with asking(server) as rest:
        yield rest


class Clock:
    """Stands still but for what the test lets pass: a busy machine's pauses tell nothing."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


async def calmed(client: RestClient, clock: Clock) -> None:
    await client.call("GET", "/x")
    clock.now += RESTLESS_SECONDS
    assert client.restless() == 0


async def test_an_engine_is_restless_once_it_answers_again(
    server: Server, client: RestClient, clock: Clock
) -> None:
    await calmed(client, clock)
    server.handler = server.silence
    with pytest.raises(Unavailable):
        await client.call("GET", "/x", deadline=0.2)
    clock.now += RESTLESS_SECONDS
    assert client.restless() == 0  # nobody knows yet
    server.handler = ok
    await client.call("GET", "/x")
    assert client.restless() == RESTLESS_SECONDS  # twice as long as it took, but not longer
    clock.now += RESTLESS_SECONDS
    assert client.restless() == 0


async def test_a_first_answer_tells_by_its_time(
    server: Server, client: RestClient, clock: Clock
) -> None:
    """It may be the first of one that stood still when we began to ask."""

    async def late(method: str, target: str, writer: asyncio.StreamWriter) -> None:
        clock.now += 0.25
        await ok(method, target, writer)

    server.handler = late
    await client.call("GET", "/x")
    assert client.restless() == 0.5
    await calmed(client, clock)
    await client.call("GET", "/x")
    assert client.restless() == 0  # an engine that is slow is not one that stood still


async def test_waits_of_minutes_tell_nothing(
    server: Server, client: RestClient, clock: Clock
) -> None:
    await calmed(client, clock)
    server.handler = server.silence
    with pytest.raises(Unavailable):
        await client.call("POST", "/wait", deadline=0.2, long=True)
    clock.now += 100
    server.handler = ok
    await client.call("GET", "/x")
    assert client.restless() == 0
