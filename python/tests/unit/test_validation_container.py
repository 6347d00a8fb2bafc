"""A check's container is used once its own command runs, not when the runtime still prepares it."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from flashpods.admin.validation import container
from flashpods.admin.validation.check import Failed
from flashpods.admin.validation.host import Host

LINE = b"2026-11-26T05:00:00.000000000+00:00 stdout F up\n"


def host(state: object) -> Host:
    """Return a host whose one container is in that state."""

    async def inspect(_: str) -> object:
        return state

    return cast(Host, SimpleNamespace(runtime=SimpleNamespace(inspect=inspect)))


ALIVE = SimpleNamespace(running=True)


async def test_it_is_up_with_its_first_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "raw"
    look, looks, third = container._lines, itertools.count(1), asyncio.Event()

    def counted(path: Path) -> tuple[str, ...]:
        if next(looks) == 3:
            third.set()
        return look(path)

    monkeypatch.setattr(container, "_lines", counted)
    waiting = asyncio.create_task(container._up(host(ALIVE), "c", log))
    await asyncio.wait_for(third.wait(), 60)
    assert not waiting.done()
    log.write_bytes(LINE)
    await asyncio.wait_for(waiting, 60)


@pytest.mark.parametrize(
    ("state", "error"), [(ALIVE, Failed), (None, container._Taken)], ids=["silent", "removed"]
)
async def test_one_that_is_never_up(
    tmp_path: Path, state: object, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container, "UP_SECONDS", 0.05)
    with pytest.raises(error):
        await container._up(host(state), "c", tmp_path / "raw")
