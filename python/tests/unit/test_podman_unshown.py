"""A container that the engine can't show, for whatever reason, can still be removed."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_podman_half_made import HalfMade, runtime

from flashpods.adapters.podman.look import Unshown
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
