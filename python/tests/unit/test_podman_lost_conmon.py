"""Podman calls a container whose conmon was killed "running" for ever; its cgroup knows better."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from flashpods.adapters.podman import deaths
from flashpods.adapters.podman.rest import Answer
from flashpods.adapters.podman.runtime import PodmanRuntime
from flashpods.config import Podman

RUNNING = {
    "Id": "0123",
    "Name": "job_0",
    "Config": {"Labels": {"flashpods-job-id": "0"}},
    "State": {
        "Status": "running",
        "Pid": 7,  # there is none to be seen
        "StartedAt": "2026-01-01T00:00:00Z",
        "FinishedAt": "0001-01-01T00:00:00Z",
        "ExitCode": 0,
        "OOMKilled": False,
    },
}


def runtime(root: Path, populated: int) -> PodmanRuntime:
    async def call(_method: str, _path: str, **_: Any) -> Answer:
        return Answer(200, json.dumps(RUNNING).encode())

    (root / "ctrs/job_0").mkdir(parents=True)
    (root / "ctrs/job_0/cgroup.events").write_text(f"populated {populated}\nfrozen 0\n")
    settings = Podman(socket=Path("/nowhere/podman.sock"), cgroup_parent="/ctrs")
    made = PodmanRuntime(settings, cgroups=root, proc=root)
    made._rest.call = call  # type: ignore[method-assign] # the engine is not there
    return made


async def test_an_empty_cgroup_ends_the_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deaths, "STATUS_LOST_AFTER", 0.05)
    async with asyncio.timeout(30):
        state = await runtime(tmp_path, 0).wait("0123")
    assert state is not None
    assert state.exited
    assert state.exit_code is None


async def test_one_with_a_process_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deaths, "STATUS_LOST_AFTER", 0.05)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await runtime(tmp_path, 1).wait("0123")
