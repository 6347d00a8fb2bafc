"""Creates take turns: two at once break Podman 5.4.2's id maps, or its service."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

from flashpods.adapters.podman.rest import Answer
from flashpods.adapters.podman.runtime import PodmanRuntime
from flashpods.adapters.podman.spec import Engine
from flashpods.config import Podman
from flashpods.ports import ContainerSpec, Limits

SPEC = ContainerSpec(
    job_id="0",
    job_type="worker",
    name="job_0",
    image="localhost/i",
    argv=("/bin/true",),
    env={},
    workdir="/work",
    mounts=(),
    limits=Limits(cpus=1, memory_bytes=1024**3, pids=64),
    backstop_seconds=60,
    log_path=Path("/nowhere/log"),
    enforce_limits=True,
)


async def test_creates_take_turns_and_the_rest_does_not() -> None:
    at_once = {"create": 0, "init": 0}
    most = dict(at_once)
    both_in_init = asyncio.Event()

    async def call(_method: str, path: str, **_: Any) -> Answer:
        kind = path.rsplit("/", 1)[1]
        at_once[kind] += 1
        most[kind] = max(most[kind], at_once[kind])
        if kind == "init":
            if at_once["init"] == 2:
                both_in_init.set()
            await both_in_init.wait()
        else:
            await asyncio.sleep(0)  # let another create come in here, if one can
        at_once[kind] -= 1
        return Answer(201, b'{"Id": "0123"}')

    runtime = PodmanRuntime(Podman(socket=Path("/nowhere")))
    runtime._engine = Engine(version="5.4.2", uid=1, gid=1, controllers=frozenset())
    runtime._rest.call = call  # type: ignore[method-assign] # the engine is not there
    specs = [replace(SPEC, job_id=str(n), name=f"job_{n}") for n in range(2)]
    async with asyncio.timeout(30):
        assert await asyncio.gather(*map(runtime.create, specs)) == ["0123"] * 2
    assert most == {"create": 1, "init": 2}
