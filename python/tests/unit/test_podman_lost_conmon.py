"""Podman calls a container whose conmon was killed "running" for ever; its cgroup knows better."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from flashpods.adapters.podman import deaths
from flashpods.adapters.podman.conmon import conmon_alive
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


def runtime(root: Path, populated: int, monkeypatch: pytest.MonkeyPatch) -> PodmanRuntime:
    async def call(_method: str, _path: str, **_: Any) -> Answer:
        return Answer(200, json.dumps(RUNNING).encode())

    (root / "ctrs/job_0").mkdir(parents=True)
    (root / "ctrs/job_0/cgroup.events").write_text(f"populated {populated}\nfrozen 0\n")
    settings = Podman(socket=Path("/nowhere/podman.sock"), cgroup_parent="/ctrs")
    made = PodmanRuntime(settings, cgroups=root, proc=root)
    monkeypatch.setattr(made._rest, "call", call)  # the engine is not there
    return made


async def test_an_empty_cgroup_ends_the_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deaths, "STATUS_LOST_AFTER", 0.05)
    async with asyncio.timeout(30):
        state = await runtime(tmp_path, 0, monkeypatch).wait("0123")
    assert state is not None
    assert state.exited
    assert state.exit_code is None


async def test_one_with_a_process_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deaths, "STATUS_LOST_AFTER", 0.05)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await runtime(tmp_path, 1, monkeypatch).wait("0123")


def process(root: Path, pid: int, *words: str, pids: str = "") -> None:
    """Have a process be seen."""
    (root / str(pid)).mkdir()
    (root / str(pid) / "cmdline").write_bytes(b"\0".join(w.encode() for w in (*words, "")))
    (root / str(pid) / "status").write_text(f"Name:\tx\nNSpid:\t{pids or pid}\nVmPeak: 1 kB\n")


SERVICE = ("/usr/bin/podman", "system", "service", "--time=0")


async def test_without_a_conmon_there_is_nothing_to_wait_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deaths, "STATUS_LOST_AFTER", 3600)
    monkeypatch.setattr(deaths, "CONMON_DUE", 0)
    made = runtime(tmp_path, 0, monkeypatch)
    process(tmp_path, 11, *SERVICE)
    process(tmp_path, 12, "/usr/bin/conmon", "-c", "4567")
    process(tmp_path, 13)  # a zombie, or the kernel's
    async with asyncio.timeout(30):
        state = await made.wait("0123")
    assert state is not None
    assert (state.status, state.exit_code) == ("exited", None)


async def test_a_conmon_that_is_there_has_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("STATUS_LOST_AFTER", "CONMON_DUE"):
        monkeypatch.setattr(deaths, name, 0)
    monkeypatch.setattr(deaths, "FIRST_LOOK", 0.1)  # after a look for it
    made = runtime(tmp_path, 0, monkeypatch)
    process(tmp_path, 11, *SERVICE)
    process(tmp_path, 12, "/usr/bin/conmon", "-c", "0123")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await made.wait("0123")
    monkeypatch.setattr(deaths, "CONMON_GIVEN", 0)
    async with asyncio.timeout(30):
        assert await made.wait("0123") is not None


def test_where_podman_is_not_to_be_seen_nor_is_conmon(tmp_path: Path) -> None:
    assert conmon_alive("0123", proc=tmp_path) is None
    process(tmp_path, 11, "podman", "container", "cleanup", "4567")
    process(tmp_path, 12, *SERVICE, pids="12 3")  # a container's own
    assert conmon_alive("0123", proc=tmp_path) is None
    process(tmp_path, 13, *SERVICE)
    assert conmon_alive("0123", proc=tmp_path) is False
