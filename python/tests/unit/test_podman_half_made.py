"""A service killed within "init" leaves a container that it can neither initialise nor start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_podman_create_in_turn import SPEC

from flashpods.adapters.podman.rest import Answer
from flashpods.adapters.podman.runtime import PodmanRuntime
from flashpods.adapters.podman.spec import Engine
from flashpods.config import Podman
from flashpods.errors import Unavailable
from flashpods.ports import ContainerError

NEVER = "0001-01-01T00:00:00Z"


class HalfMade:
    """Answers as Podman 4.3 and 5.4 do; ``started``: when it says that the command began."""

    def __init__(self, started: str = NEVER, *, in_storage: bool = False) -> None:
        self.in_storage = in_storage  # alone: no container of the engine's has the name
        self.calls: list[str] = []
        self.there = True
        self.state = {
            "Status": "created",
            "Pid": 0,
            "StartedAt": started,
            "FinishedAt": NEVER,
            "ExitCode": 0,
            "OOMKilled": False,
        }

    async def call(self, method: str, path: str, **_: Any) -> Answer:
        kind = "remove" if method == "DELETE" else path.rsplit("/", 1)[1]
        self.calls.append(kind)
        if kind == "remove":
            self.there = False
        if kind == "json" and self.in_storage:
            return Answer(404, b"{}")
        if kind == "json":
            labels = {"flashpods-job-id": "0"}
            found = {"Id": "old", "Name": "job_0", "State": self.state}
            return Answer(200, json.dumps({**found, "Config": {"Labels": labels}}).encode())
        if kind in {"create", "init"} and self.there:
            cause = (
                "the container name is already in use"
                if kind == "create"
                else "container `old` already exists"
            )
            return Answer(500, json.dumps({"message": f"crun: {cause}"}).encode())
        return Answer(201, b'{"Id": "new"}')


def runtime(engine: HalfMade, root: Path) -> PodmanRuntime:
    settings = Podman(socket=Path("/nowhere"), cgroup_parent="/ctrs")
    made = PodmanRuntime(settings, cgroups=root, proc=root)
    made._engine = Engine(version="5.4.2", uid=1, gid=1, controllers=frozenset())
    made._rest.call = engine.call  # type: ignore[method-assign] # the engine is not there
    return made


@pytest.mark.parametrize("in_storage", [False, True])
async def test_it_is_removed_and_the_next_call_makes_it_anew(
    tmp_path: Path, *, in_storage: bool
) -> None:
    engine = HalfMade(in_storage=in_storage)
    podman = runtime(engine, tmp_path)
    with pytest.raises(Unavailable, match="half made"):
        await podman.create(SPEC)
    assert "remove" in engine.calls
    assert await podman.create(SPEC) == "new"


@pytest.mark.parametrize("sign", ["a start", "a process"])
async def test_one_that_may_have_run_stays(tmp_path: Path, sign: str) -> None:
    engine = HalfMade("2026-01-01T00:00:00Z" if sign == "a start" else NEVER)
    if sign == "a process":
        (tmp_path / "ctrs/job_0/libpod-old").mkdir(parents=True)
        (tmp_path / "ctrs/job_0/libpod-old/cgroup.procs").write_text("7\n")
        (tmp_path / "7").mkdir()
        (tmp_path / "7/comm").write_text("sh\n")
    with pytest.raises(ContainerError, match="already exists"):
        await runtime(engine, tmp_path).create(SPEC)
    assert "remove" not in engine.calls


async def test_one_that_an_earlier_call_completed_meanwhile_is_taken(tmp_path: Path) -> None:
    engine = HalfMade()
    call = engine.call

    async def slow(method: str, path: str, **more: Any) -> Answer:
        answer = await call(method, path, **more)
        if path.endswith("/init"):
            engine.state |= {"Status": "initialized", "Pid": 7}
        return answer

    engine.call = slow  # type: ignore[method-assign] # as if Podman had been busy with it
    assert await runtime(engine, tmp_path).create(SPEC) == "old"
    assert "remove" not in engine.calls
