"""A host that loses its cgroup controllers while we run: the next try must see it."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import AsyncMock

import pytest

from flashpods.adapters.podman import engine as module
from flashpods.adapters.podman.rest import Answer
from flashpods.adapters.podman.runtime import PodmanRuntime
from flashpods.adapters.podman.spec import Engine
from flashpods.config import Podman
from flashpods.errors import Unavailable
from flashpods.ports import ContainerError

ALL = frozenset({"cpu", "memory", "pids"})
NONE: frozenset[str] = frozenset()
REFUSED = Answer(
    500, json.dumps({"message": "crun: opening file `memory.max` for writing"}).encode()
)


def runtime(
    patch: pytest.MonkeyPatch, before: frozenset[str], after: frozenset[str]
) -> PodmanRuntime:
    """Return a runtime whose engine refuses each container, and has these controllers."""
    made = PodmanRuntime(Podman(socket=Path("/nowhere/podman.sock")))
    made._engine = engine(before)
    patch.setattr(module, "probe", AsyncMock(return_value=engine(after)))
    patch.setattr(made._rest, "call", AsyncMock(return_value=REFUSED))  # the engine is not there
    return made


def engine(controllers: frozenset[str]) -> Engine:
    return Engine(version="5.4.2", uid=1, gid=1, controllers=controllers)


async def test_the_first_refusal_is_worth_another_try_the_next_is_final(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lost = runtime(monkeypatch, ALL, NONE)
    assert lost.limits_enforceable()
    with pytest.raises(Unavailable, match="lost the controllers"):
        await lost._initialise("0123")
    assert not lost.limits_enforceable()
    with pytest.raises(ContainerError, match=r"memory\.max"):
        await lost._initialise("0123")


async def test_a_refusal_with_all_controllers_there_is_final(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = runtime(monkeypatch, ALL, ALL)
    with pytest.raises(ContainerError, match=r"memory\.max"):
        await kept._initialise("0123")
    assert kept.limits_enforceable()
