"""What the agent's start refuses, and what it puts in."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from flashpods.spire.agent_config import open_directory, read, unsafe, with_start
from flashpods.spire.server import SpireError
from flashpods_dev.identity import render


@pytest.fixture
def content(tmp_path: Path) -> dict[str, Any]:
    return render.agent(
        data=tmp_path / "agent",
        socket=tmp_path / "agent.sock",
        server_port=8081,
        podman_socket=tmp_path / "podman.sock",
        cgroup_parent="/fp/ctrs",
        lifetimes=render.Lifetimes(),
    )


def docker(content: dict[str, Any]) -> dict[str, Any]:
    data: dict[str, Any] = content["plugins"]["WorkloadAttestor"][0]["docker"]["plugin_data"]
    return data


def test_what_the_stack_renders_is_safe(content: dict[str, Any]) -> None:
    assert list(unsafe(content, "/fp/ctrs")) == []
    assert list(unsafe(content, "/fp/ctrs/")) == []


@pytest.mark.parametrize("value", [None, True])
def test_the_locator_that_believes_mountinfo(content: dict[str, Any], value: bool | None) -> None:
    docker(content)["use_new_container_locator"] = value
    (fault,) = unsafe(content, "/fp/ctrs")
    assert "use_new_container_locator must be false" in fault


@pytest.mark.parametrize("matchers", [[], ["/<id>"], ["/fp/ctrs/<id>/*", "/fp/<id>/*/*"]])
def test_matchers_of_other_cgroups(content: dict[str, Any], matchers: list[str]) -> None:
    docker(content)["container_id_cgroup_matchers"] = matchers
    (fault,) = unsafe(content, "/fp/ctrs")
    assert "must be ['/fp/ctrs/<id>/*']" in fault


def test_no_attestor(content: dict[str, Any]) -> None:
    content["plugins"]["WorkloadAttestor"] = {"unix": {}}
    (fault,) = unsafe(content, "/fp/ctrs")
    assert "no WorkloadAttestor docker" in fault


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o775])
def test_a_socket_where_others_could_put_theirs(
    content: dict[str, Any], tmp_path: Path, mode: int
) -> None:
    tmp_path.chmod(mode)
    (fault,) = unsafe(content, "/fp/ctrs")
    assert "may be written by others" in fault


def test_directories_above_may_be_sticky_only(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir(mode=0o755)
    tmp_path.chmod(0o1777)
    assert open_directory(own / "podman.sock") is None
    tmp_path.chmod(0o777)
    assert "may be written by others" in str(open_directory(own / "podman.sock"))
    assert "No such file" in str(open_directory(own / "gone" / "podman.sock"))
    assert "absolute" in str(open_directory(Path("podman.sock")))


def test_a_start_puts_in_what_it_knows(content: dict[str, Any]) -> None:
    before = deepcopy(content)
    content["agent"]["insecure_bootstrap"] = True
    started = with_start(
        content, data=Path("/d"), bundle=Path("/d/bootstrap.pem"), join_token="t0ken"
    )
    assert started["agent"] == {
        **before["agent"],
        "data_dir": "/d",
        "trust_bundle_path": "/d/bootstrap.pem",
        "join_token": "t0ken",
    }
    without = with_start(content, data=Path("/d"), bundle=Path("/b"), join_token=None)
    assert "join_token" not in without["agent"]


@pytest.mark.parametrize("text", ["", "agent {}", "[]", '{"agent": {}}'])
def test_a_file_that_is_not_the_agents(tmp_path: Path, text: str) -> None:
    file = tmp_path / "agent.json"
    file.write_text(text)
    with pytest.raises(SpireError, match=r"spire\.agent_config"):
        read(file)
    with pytest.raises(SpireError, match="No such file"):
        read(tmp_path / "gone")
    file.write_text(json.dumps({"agent": {}, "plugins": {}}))
    assert read(file) == {"agent": {}, "plugins": {}}
