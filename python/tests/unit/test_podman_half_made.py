"""Containers that can neither be initialised nor started: what an interrupted call leaves.

Killed within "create": a name in its storage alone. Killed within "init": a container that the OCI
runtime has and Podman does not. A DELETE amid a create: one in Podman's database, without storage.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from podman_rig import LISTED, NEVER, SPEC, HalfMade, runtime

from flashpods.adapters.podman import runtime as module
from flashpods.adapters.podman.look import UNSTORED
from flashpods.adapters.podman.rest import Answer
from flashpods.errors import Unavailable
from flashpods.ports import ContainerError


@pytest.mark.parametrize("what", ["in storage", "in the database", "in both"])
async def test_it_is_removed_and_the_next_call_makes_it_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(module, "NOTICE_SECONDS", 0.1)
    engine = HalfMade(what=what)
    podman = runtime(engine, tmp_path, monkeypatch)
    with pytest.raises(Unavailable, match="half made"):
        await podman.create(SPEC)
    assert "remove" in engine.calls
    assert await podman.create(SPEC) == "new"


@pytest.mark.parametrize("said", UNSTORED)
async def test_one_without_its_storage_is_seen_and_can_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    engine = HalfMade(what="in the database")
    engine.unstored = said
    podman = runtime(engine, tmp_path, monkeypatch)
    for name in ("job_0", "old"):
        found = await podman.inspect(name)
        assert found is not None
        assert (found.name, found.id, found.status) == ("job_0", "old", "created")
    with pytest.raises(Unavailable, match="cannot inspect job_1"):
        await podman.inspect("job_1")
    assert [c.name for c in await podman.containers()] == ["job_0"]
    await podman.remove("job_0")
    assert not engine.there
    assert await podman.inspect("job_0") is None


async def test_one_that_ran_when_the_power_went_is_told_from_one_that_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files of its layer are empty, so that the list alone tells of it (./dev vm, reboot)."""
    engine = HalfMade(what="in the database")
    engine.unstored = 'getting graph driver info "old": readlink /x/overlay: invalid argument'
    engine.listed = {**LISTED, "State": "exited", "StartedAt": 1795671850, "ExitedAt": -62135596800}
    podman = runtime(engine, tmp_path, monkeypatch)
    (lost,) = await podman.containers()
    assert lost == await podman.inspect("job_0")
    assert (lost.exited, lost.exit_code, lost.finished_at) == (False, None, None)
    assert lost.started_at is not None
    engine.listed = {**engine.listed, "ExitedAt": 1795671860, "ExitCode": 3}
    ended = await podman.inspect("job_0")
    assert ended is not None
    assert (ended.exited, ended.exit_code) == (True, 3)


async def test_a_create_that_nobody_waits_for_is_not_disturbed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name is in the storage before the container can be inspected."""
    engine = HalfMade(what="in storage")
    call = engine.call

    async def busy(method: str, path: str, **more: Any) -> Answer:
        if engine.calls.count("json") == 2:
            engine.what = "in both"
            engine.state |= {"Status": "initialized", "Pid": 7}
        return await call(method, path, **more)

    monkeypatch.setattr(engine, "call", busy)  # as if Podman had been busy with it
    assert await runtime(engine, tmp_path, monkeypatch).create(SPEC) == "old"
    assert "remove" not in engine.calls


@pytest.mark.parametrize("sign", ["a start", "a process"])
async def test_one_that_may_have_run_stays(
    tmp_path: Path, sign: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = HalfMade("2026-01-01T00:00:00Z" if sign == "a start" else NEVER)
    if sign == "a process":
        (tmp_path / "ctrs/job_0/libpod-old").mkdir(parents=True)
        (tmp_path / "ctrs/job_0/libpod-old/cgroup.procs").write_text("7\n")
        (tmp_path / "7").mkdir()
        (tmp_path / "7/comm").write_text("sh\n")
    with pytest.raises(ContainerError, match="already exists"):
        await runtime(engine, tmp_path, monkeypatch).create(SPEC)
    assert "remove" not in engine.calls


async def test_one_that_an_earlier_call_completed_meanwhile_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = HalfMade()
    call = engine.call

    async def slow(method: str, path: str, **more: Any) -> Answer:
        answer = await call(method, path, **more)
        if path.endswith("/init"):
            engine.state |= {"Status": "initialized", "Pid": 7}
        return answer

    monkeypatch.setattr(engine, "call", slow)  # as if Podman had been busy with it
    assert await runtime(engine, tmp_path, monkeypatch).create(SPEC) == "old"
    assert "remove" not in engine.calls


async def test_one_that_can_not_be_shown_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only an inspection would tell how the first ended, and its storage is damaged."""
    lost = {**LISTED, "Id": "lost", "Names": ["job_1"], "State": "exited", "ExitCode": -1}

    async def call(_method: str, path: str, **_: Any) -> Answer:
        if path == "/containers/json":
            return Answer(200, json.dumps([lost, LISTED]).encode())
        return Answer(500, b'{"message": "layer not known"}')

    podman = runtime(HalfMade(), tmp_path, monkeypatch)
    monkeypatch.setattr(podman._rest, "call", call)  # the engine is not there
    found = await podman.containers()
    assert [(c.id, c.status, c.exit_code) for c in found] == [
        ("lost", "exited", None),
        ("old", "created", None),
    ]
