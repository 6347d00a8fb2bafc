"""On a full disk Podman can't note that a container is dead, and so does not show it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flashpods.adapters.podman.look import NoRoom
from flashpods.adapters.podman.rest import Answer
from flashpods.adapters.podman.runtime import PodmanRuntime
from flashpods.adapters.podman.spec import Engine
from flashpods.config import Podman
from flashpods.errors import Unavailable

FULL = "adding container 0123 exit code 137: database or disk is full"  # of Podman 4.9
KEPT = [
    {"id": "4567", "names": ["job_1"], "layer": "bb"},
    {"id": "0123", "names": ["job_0"], "layer": "aa", "metadata": "{}"},
]


def runtime(root: Path, *, said: str = FULL, populated: int = 0) -> PodmanRuntime:
    """Return one whose engine says only that, over a storage and a cgroup tree in ``root``."""

    async def call(_method: str, _path: str, **_: Any) -> Answer:
        return Answer(500, json.dumps({"message": said}).encode())

    (root / "ctrs/job_0").mkdir(parents=True)
    (root / "ctrs/job_0/cgroup.events").write_text(f"populated {populated}\nfrozen 0\n")
    (root / "overlay-containers").mkdir()
    (root / "overlay-containers/containers.json").write_text(json.dumps(KEPT))
    (root / "overlay/aa/diff/tmp").mkdir(parents=True)
    (root / "overlay/aa/diff/tmp/f").write_text("what filled it")
    settings = Podman(socket=Path("/nowhere/podman.sock"), cgroup_parent="/ctrs")
    made = PodmanRuntime(settings, cgroups=root, proc=root)
    made._rest.call = call  # type: ignore[assignment,method-assign] # it is not there
    made._engine.known = Engine(
        version="4.9.3", uid=1, gid=1, controllers=frozenset(), graph_root=root
    )
    return made


@pytest.mark.parametrize("by", ["job_0", "0123"])
async def test_its_storage_is_asked(tmp_path: Path, by: str) -> None:
    state = await runtime(tmp_path).inspect(by)
    assert state is not None
    assert (state.id, state.name, state.job_id) == ("0123", "job_0", "0")
    assert state.exited
    assert state.exit_code is None
    assert state.layer == tmp_path / "overlay/aa/diff"


@pytest.mark.parametrize("said", [FULL, "write /x/y: no space left on device"])
async def test_what_it_wrote_is_freed(tmp_path: Path, said: str) -> None:
    made = runtime(tmp_path, said=said)
    await made.empty("job_0")
    await made.close()
    assert list((tmp_path / "overlay/aa/diff").iterdir()) == []


async def test_one_that_has_a_process_is_let_be(tmp_path: Path) -> None:
    made = runtime(tmp_path, populated=1)
    with pytest.raises(NoRoom, match="disk is full"):
        await made.empty("job_0")
    assert (tmp_path / "overlay/aa/diff/tmp/f").exists()


async def test_one_whose_cgroup_is_not_to_be_seen_is_let_be(tmp_path: Path) -> None:
    """``job_1`` is in the storage; whether it lives, nobody tells."""
    with pytest.raises(NoRoom):
        await runtime(tmp_path).inspect("job_1")


async def test_another_refusal_is_one(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="out of order") as caught:
        await runtime(tmp_path, said="out of order").inspect("job_0")
    assert not isinstance(caught.value, NoRoom)


@pytest.mark.parametrize("text", [None, "", "{}", "[1]", '[{"id": "0123"}]'])
async def test_a_storage_that_tells_nothing(tmp_path: Path, text: str | None) -> None:
    made = runtime(tmp_path)
    file = tmp_path / "overlay-containers/containers.json"
    file.unlink() if text is None else file.write_text(text)
    with pytest.raises(NoRoom):
        await made.inspect("job_0")
