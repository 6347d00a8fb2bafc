"""What jobs get with identity, and which settings would give them none, or somebody else's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from flashpods.config import Settings, load
from flashpods.config_base import ConfigError
from flashpods.config_identity import Identity, job_env, job_mounts

ON = Identity(enabled=True, helper=Path("/nix/store/x/bin/flashpods-token"))


def test_nothing_unless_enabled() -> None:
    assert job_mounts(Identity(helper=Path("/h"))) == {}
    assert job_env(Identity(helper=Path("/h"))) == {}


def test_what_a_job_gets() -> None:
    assert job_mounts(ON) == {
        "/run/spire/sockets": Path("/run/spire/sockets"),
        "/run/flashpods/token.sock": Path("/run/flashpods/token.sock"),
        "/usr/local/bin/flashpods-token": Path("/nix/store/x/bin/flashpods-token"),
    }
    assert job_env(ON) == {
        "SPIFFE_ENDPOINT_SOCKET": "unix:///run/spire/sockets/agent.sock",
        "FLASHPODS_TOKEN_SOCKET": "/run/flashpods/token.sock",
        "FLASHPODS_GIT_HOSTS": "https://github.com",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "credential.https://github.com.helper",
        "GIT_CONFIG_VALUE_0": "/usr/local/bin/flashpods-token git-credential",
        "GIT_TERMINAL_PROMPT": "0",
    }


def test_one_helper_for_each_host_and_no_other() -> None:
    hosts = ("https://github.com", "https://git.example:8443")
    env = job_env(ON.model_copy(update={"git_hosts": hosts}))
    assert env["GIT_CONFIG_COUNT"] == "2"
    assert env["GIT_CONFIG_KEY_1"] == "credential.https://git.example:8443.helper"
    assert env["FLASHPODS_GIT_HOSTS"] == " ".join(hosts)


def test_without_a_helper_git_is_as_ever() -> None:
    env = job_env(Identity(enabled=True))
    assert not [name for name in env if "GIT" in name]


@pytest.mark.parametrize(
    "host", ["", "github.com", "https://", "https://a b", "https://x/y", "https://u@x", "ssh://x"]
)
def test_a_host_of_git_is_a_scheme_and_a_name(host: str) -> None:
    with pytest.raises(ValidationError):
        Identity(git_hosts=(host,))


def refused(tmp_path: Path, **sections: Any) -> str:
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(sections))
    with pytest.raises(ConfigError) as caught:
        load(file)
    return str(caught.value)


def test_identity_needs_a_cgroup_for_each_job(tmp_path: Path) -> None:
    assert "needs podman.cgroup_parent" in refused(tmp_path, identity={"enabled": True})


@pytest.mark.parametrize(("section", "key"), [("podman", "socket"), ("spire", "server_socket")])
def test_no_private_socket_in_what_jobs_see(tmp_path: Path, section: str, key: str) -> None:
    sections: dict[str, Any] = {
        "identity": {"enabled": True},
        "podman": {"cgroup_parent": "/fp/ctrs"},
    }
    sections.setdefault(section, {})[key] = "/run/spire/sockets/x.sock"
    assert f"holds {section}.{key}" in refused(tmp_path, **sections)


@pytest.mark.parametrize("source", ["/run/flashpods/podman.sock", "/run/flashpods", "/run", "/"])
def test_podmans_socket_is_never_mounted(tmp_path: Path, source: str) -> None:
    assert "holds podman.socket" in refused(tmp_path, podman={"mounts": {"/x": source}})


def test_the_defaults_can_be_enabled(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    sections = {"identity": {"enabled": True}, "podman": {"cgroup_parent": "/fp/ctrs"}}
    file.write_text(json.dumps(sections))
    assert load(file).identity.enabled
    assert not Settings().identity.enabled


@pytest.mark.parametrize(
    "entries",
    [
        {"worker": {"selectors": []}},
        {"worker": {"selectors": ["docker"]}},
        {"a/b": {"selectors": ["unix:uid:0"]}},
        {"worker": {"selectors": ["unix:uid:0"], "admin": True}},
    ],
)
def test_entries_that_cannot_be(entries: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Settings(spire={"entries": entries})
