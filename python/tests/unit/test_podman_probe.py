"""What the engine can do is asked once, however little time the first who asks has."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from flashpods.adapters.podman.rest import Answer
from flashpods.adapters.podman.runtime import PodmanRuntime
from flashpods.config import Podman
from flashpods.errors import Unavailable

MAP = [{"container_id": 0, "host_id": 900, "size": 1}]
INFO = {
    "host": {"idMappings": {"uidmap": MAP, "gidmap": MAP}, "cgroupControllers": ["memory"]},
    "version": {"Version": "5.4.2"},
}


class Slow:
    """An engine that takes its time to say what it is; it is not there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runtime = PodmanRuntime(Podman(socket=Path("/nowhere/podman.sock")))
        self.go_on = asyncio.Event()
        self.asked = 0
        self.fails = False
        monkeypatch.setattr(self.runtime._rest, "call", self.call)

    async def call(self, _method: str, path: str, **_: Any) -> Answer:
        if path == "/info":
            self.asked += 1
            await self.go_on.wait()
            if self.fails:
                raise Unavailable("it went away meanwhile")
        return Answer(200, json.dumps(INFO).encode())


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Slow:
    return Slow(monkeypatch)


async def hurried(slow: Slow) -> None:
    """Ping as a look at the health does, with less time than the engine takes."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await slow.runtime.ping()


async def test_it_is_known_in_the_end_though_each_who_asks_gives_up(slow: Slow) -> None:
    """A host that is slow for its load would be degraded until a job asks with more patience."""
    for _ in range(3):
        await hurried(slow)
    slow.go_on.set()
    async with asyncio.timeout(30):
        await slow.runtime.ping()
        await slow.runtime.ping()
    assert slow.asked == 1
    assert not slow.runtime.limits_enforceable()  # no cpu, no pids
    await slow.runtime.close()


async def test_an_answer_that_comes_when_nobody_waits_is_kept(slow: Slow) -> None:
    await hurried(slow)
    slow.go_on.set()
    asked = slow.runtime._engine._asked
    assert asked is not None
    async with asyncio.timeout(30):
        await asyncio.wait((asked,))
        await slow.runtime.ping()
    assert slow.asked == 1
    await slow.runtime.close()


async def test_one_question_for_all_who_ask_at_once(slow: Slow) -> None:
    pings = [asyncio.create_task(slow.runtime.ping()) for _ in range(5)]
    await asyncio.sleep(0.02)
    slow.go_on.set()
    async with asyncio.timeout(30):
        await asyncio.gather(*pings)
    assert slow.asked == 1
    await slow.runtime.close()


async def test_a_failure_is_told_and_the_next_asks_again(slow: Slow) -> None:
    slow.fails = True
    slow.go_on.set()
    with pytest.raises(Unavailable, match="meanwhile"):
        await slow.runtime.ping()
    slow.fails = False
    await slow.runtime.ping()
    assert slow.asked == 2
    await slow.runtime.close()


async def test_a_question_that_is_under_way_holds_up_no_end(slow: Slow) -> None:
    await hurried(slow)
    async with asyncio.timeout(30):
        await slow.runtime.close()
