"""Creates take turns: two at once break Podman 5.4.2's id maps, or its service."""

from __future__ import annotations

import asyncio
import fcntl
import os
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest
from podman_rig import SPEC

from flashpods.adapters.podman import turns
from flashpods.adapters.podman.rest import Answer
from flashpods.adapters.podman.runtime import PodmanRuntime
from flashpods.adapters.podman.spec import Engine
from flashpods.config import Podman
from flashpods.errors import Unavailable


async def test_creates_take_turns_and_the_rest_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
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

    runtime = PodmanRuntime(Podman(socket=Path("/nowhere/podman.sock")))
    runtime._engine.known = Engine(version="5.4.2", uid=1, gid=1, controllers=frozenset())
    monkeypatch.setattr(runtime._rest, "call", call)  # the engine is not there
    specs = [replace(SPEC, job_id=str(n), name=f"job_{n}") for n in range(2)]
    async with asyncio.timeout(30):
        assert await asyncio.gather(*map(runtime.create, specs)) == ["0123"] * 2
    assert most == {"create": 1, "init": 2}


async def test_processes_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``flashpods-admin validate`` does with the API; here are two runtimes for them."""
    under_way = most = 0

    async def call(_method: str, path: str, **_: Any) -> Answer:
        nonlocal under_way, most
        if path.endswith("/create"):
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0.02)
            under_way -= 1
        return Answer(201, b'{"Id": "0123"}')

    runtimes = [PodmanRuntime(Podman(socket=tmp_path / "podman.sock")) for _ in range(2)]
    for runtime in runtimes:
        runtime._engine.known = Engine(version="5.4.2", uid=1, gid=1, controllers=frozenset())
        monkeypatch.setattr(runtime._rest, "call", call)  # the engine is not there
    async with asyncio.timeout(30):
        await asyncio.gather(*(runtime.create(SPEC) for _ in range(3) for runtime in runtimes))
    assert most == 1


async def test_a_process_that_dies_in_its_turn_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import fcntl, os, sys, time\n"
        "fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX)\n"
        "print('locked', flush=True)\ntime.sleep(600)"
    )
    other = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert other.stdout is not None
    assert await other.stdout.readline() == b"locked\n"
    runtime = PodmanRuntime(Podman(socket=tmp_path / "podman.sock", call_seconds=0.05))
    runtime._engine.known = Engine(version="5.4.2", uid=1, gid=1, controllers=frozenset())
    made = Answer(201, b'{"Id": "0123"}')
    monkeypatch.setattr(runtime._rest, "call", AsyncMock(return_value=made))  # likewise
    with pytest.raises(Unavailable, match=r"within 0\.05 s"):
        await runtime.create(SPEC)
    other.kill()
    await other.wait()
    async with asyncio.timeout(30):
        while True:
            with suppress(Unavailable):
                assert await runtime.create(SPEC) == "0123"
                break
    await runtime.close()


async def test_a_process_that_is_stopped_in_its_turn_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "OTHERS_SECONDS", 0.05)
    holder = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX)
        async with asyncio.timeout(30), turns._locked(tmp_path / "podman.sock"):
            pass
    finally:
        os.close(holder)


async def test_a_create_that_nobody_waits_for_keeps_its_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stopped engine would do both at once when it goes on."""
    goes_on = asyncio.Event()
    made: list[str] = []

    async def call(_method: str, path: str, **more: Any) -> Answer:
        if path.endswith("/create"):
            await goes_on.wait()
            made.append(more["body"]["name"])
        return Answer(201, b'{"Id": "0123"}')

    runtime = PodmanRuntime(Podman(socket=Path("/nowhere/podman.sock"), call_seconds=0.05))
    runtime._engine.known = Engine(version="5.4.2", uid=1, gid=1, controllers=frozenset())
    monkeypatch.setattr(runtime._rest, "call", call)  # the engine is not there
    specs = [replace(SPEC, job_id=str(n), name=f"job_{n}") for n in range(3)]
    for spec in specs[:2]:
        with pytest.raises(Unavailable, match=r"within 0\.05 s"):
            await runtime.create(spec)
    runtime._creates._seconds = 60  # this one is waited for, on a busy machine as well
    goes_on.set()
    assert await runtime.create(specs[2]) == "0123"
    assert made == ["job_0", "job_2"]
    await runtime.close()


async def test_a_create_that_fails_ends_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    fails = True

    async def call(_method: str, _path: str, **_: Any) -> Answer:
        if fails:
            raise Unavailable("Podman does not answer")
        return Answer(201, b'{"Id": "0123"}')

    runtime = PodmanRuntime(Podman(socket=Path("/nowhere/podman.sock")))
    runtime._engine.known = Engine(version="5.4.2", uid=1, gid=1, controllers=frozenset())
    monkeypatch.setattr(runtime._rest, "call", call)  # the engine is not there
    with pytest.raises(Unavailable, match="does not answer"):
        await runtime.create(SPEC)
    fails = False
    assert await runtime.create(SPEC) == "0123"


async def test_what_is_under_way_is_broken_off_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    broken_off = asyncio.Event()

    async def call(_method: str, _path: str, **_: Any) -> Answer:
        try:
            await asyncio.Event().wait()
        finally:
            broken_off.set()
        raise AssertionError

    runtime = PodmanRuntime(Podman(socket=Path("/nowhere/podman.sock"), call_seconds=0.05))
    runtime._engine.known = Engine(version="5.4.2", uid=1, gid=1, controllers=frozenset())
    monkeypatch.setattr(runtime._rest, "call", call)  # the engine is not there
    with pytest.raises(Unavailable):
        await runtime.create(SPEC)
    await runtime.close()
    assert broken_off.is_set()
