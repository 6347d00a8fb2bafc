"""A container that we have just started is waited for without asking the engine about it."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from podman_rig import SPEC, container

from flashpods.adapters.podman.rest import Answer
from flashpods.adapters.podman.runtime import PodmanRuntime
from flashpods.adapters.podman.spec import Engine
from flashpods.config import Podman

EXITED = {
    "Id": "0123",
    "Name": "job_0",
    "Config": {"Labels": {"flashpods-job-id": "0"}},
    "State": {
        "Status": "exited",
        "Pid": 0,
        "StartedAt": "2026-01-01T00:00:00Z",
        "FinishedAt": "2026-01-01T00:00:01Z",
        "ExitCode": 7,
        "OOMKilled": False,
    },
}


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "600"]) as child:
        yield child
        child.kill()


async def test_it_is_asked_once_the_process_is_dead(
    tmp_path: Path, process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    async def call(_method: str, path: str, **_: Any) -> Answer:
        calls.append(path.rsplit("/", 1)[1])
        return Answer(200, json.dumps(EXITED).encode())

    settings = Podman(socket=Path("/nowhere"), cgroup_parent="/ctrs")
    runtime = PodmanRuntime(settings, cgroups=tmp_path, proc=tmp_path)
    runtime._engine.known = Engine(version="5.4.2", uid=1, gid=1, controllers=frozenset())
    monkeypatch.setattr(runtime._rest, "call", call)  # the engine is not there
    container(tmp_path, process.pid)
    assert await runtime.create(SPEC) == "0123"
    await runtime.start("0123")
    waiting = asyncio.create_task(runtime.wait("0123"))
    done, _ = await asyncio.wait({waiting}, timeout=0.2)
    assert not done
    assert calls == ["create", "init", "start"]
    process.kill()
    async with asyncio.timeout(30):
        state = await waiting
    assert state is not None
    assert state.exit_code == 7
    assert calls == ["create", "init", "start", "json"]
