"""The agent's configuration file: what in it is unsafe, and what is put in at each start.

The file is JSON, which SPIRE's HCL reader takes as well.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flashpods.spire.server import SpireError


def read(path: Path) -> dict[str, Any]:
    """Read the file.

    Raises:
        SpireError: it is not there, or not a JSON object with ``agent`` and ``plugins``.
    """
    try:
        content = json.loads(path.read_text())
    except OSError as e:
        raise SpireError(f"spire.agent_config {path}: {e.strerror}") from e
    except ValueError as e:
        raise SpireError(f"spire.agent_config {path} is not JSON: {e}") from e
    if not isinstance(content, dict) or not {"agent", "plugins"} <= set(content):
        raise SpireError(f"spire.agent_config {path} must be an object with agent and plugins")
    return content


def with_start(
    content: Mapping[str, Any], *, data: Path, bundle: Path, join_token: str | None
) -> dict[str, Any]:
    """Return the configuration of one start."""
    agent = {**content["agent"], "data_dir": str(data), "trust_bundle_path": str(bundle)}
    agent.pop("insecure_bootstrap", None)
    if join_token is not None:
        agent["join_token"] = join_token
    return {**content, "agent": agent}


def unsafe(content: Mapping[str, Any], cgroup_parent: str | None) -> Iterator[str]:
    """Yield what would let a process claim another container's identity (decision 0006)."""
    docker = docker_plugin(content)
    if docker is None:
        yield "there is no WorkloadAttestor docker: no job would have an identity"
        return
    if docker.get("use_new_container_locator") is not False:
        yield (
            "use_new_container_locator must be false: the new locator believes the caller's "
            "mountinfo, which a process with a mount namespace of its own writes itself"
        )
    expected = [f"{cgroup_parent.rstrip('/')}/<id>/*"] if cgroup_parent else []
    if docker.get("container_id_cgroup_matchers") != expected:
        yield f"container_id_cgroup_matchers must be {expected}, from podman.cgroup_parent"
    socket = str(docker.get("docker_socket_path", "")).removeprefix("unix://")
    if fault := open_directory(Path(socket)):
        yield f"docker_socket_path: {fault}"


def docker_plugin(content: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the plugin's ``plugin_data``; None without the plugin."""
    attestors = content["plugins"].get("WorkloadAttestor", [])
    for attestor in attestors if isinstance(attestors, list) else [attestors]:
        if "docker" in attestor:
            data: dict[str, Any] = attestor["docker"].get("plugin_data", {})
            return data
    return None


def open_directory(socket: Path) -> str | None:
    """Say which directory on the way would let others put their own socket there; None if none.

    Who answers in Podman's place says what labels a container has.
    """
    if not socket.is_absolute():
        return f"{socket} must be an absolute path"
    for directory in socket.parents:
        try:
            mode = directory.stat().st_mode
        except OSError as e:
            return f"{directory}: {e.strerror}"
        own = directory == socket.parent
        others = mode & (stat.S_IWGRP | stat.S_IWOTH if own else stat.S_IWOTH)
        if others and (own or not mode & stat.S_ISVTX):
            return f"{directory} may be written by others: chmod go-w {directory}"
    return None
