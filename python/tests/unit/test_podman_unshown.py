"""A container that the engine can't show, for whatever reason, can still be removed."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from podman_rig import SPEC, HalfMade, container, runtime

from flashpods.adapters.podman import deaths
from flashpods.adapters.podman.look import Unshown
from flashpods.adapters.podman.rest import Answer
from flashpods.errors import Unavailable


async def test_it_is_removed_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = HalfMade(what="in the database")
    engine.unstored = "a fault that nobody foresaw"
    podman = runtime(engine, tmp_path, monkeypatch)
    with pytest.raises(Unshown, match=r"cannot inspect old: .* nobody foresaw"):
        await podman.inspect("old")
    await podman.remove("old")
    assert not engine.there


async def test_an_engine_that_does_not_answer_is_asked_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of its calls takes its whole deadline."""
    engine = HalfMade()
    podman = runtime(engine, tmp_path, monkeypatch)

    async def away(*_: object, **__: object) -> None:
        engine.calls.append("away")
        raise Unavailable("it does not answer")

    monkeypatch.setattr(podman._rest, "call", away)
    with pytest.raises(Unavailable):
        await podman.remove("old")
    assert engine.calls == ["away"]


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "600"]) as child:
        yield child
        child.kill()


@pytest.mark.parametrize("answers", ["what it can't show", "not at all"])
async def test_its_death_ends_the_wait_after_a_while(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    process: subprocess.Popen[bytes],
    answers: str,
) -> None:
    """The kernel has said that it is dead; an engine that is only away is waited for."""
    monkeypatch.setattr(deaths, "UNSHOWN_AFTER", 0.2)
    podman = runtime(HalfMade(), tmp_path, monkeypatch)

    async def call(_method: str, path: str, **_: Any) -> Answer:
        if not path.endswith("json"):
            return Answer(201, b'{"Id": "0123"}')
        if answers == "not at all":
            raise Unavailable("it does not answer")
        return Answer(500, b'{"message": "a fault that nobody foresaw"}')

    monkeypatch.setattr(podman._rest, "call", call)  # the engine is not there
    container(tmp_path, process.pid)
    assert await podman.create(SPEC) == "0123"
    await podman.start("0123")
    waiting = asyncio.create_task(podman.wait("0123"))
    done, _ = await asyncio.wait({waiting}, timeout=0.5)
    assert not done, "it lives"
    process.kill()
    if answers == "not at all":
        done, _ = await asyncio.wait({waiting}, timeout=1)
        assert not done
        waiting.cancel()
    else:
        async with asyncio.timeout(30):
            assert await waiting is None
