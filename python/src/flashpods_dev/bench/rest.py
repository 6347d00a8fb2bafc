"""Podman's REST socket without anything of ours between: the peer that we are measured against."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

API = "/v4.0.0/libpod"


class RawPodman:
    """One kept connection of http.client."""

    def __init__(self, path: Path, *, image: str, cgroup_parent: str) -> None:
        """Connect at once."""
        self._connection = http.client.HTTPConnection("podman", timeout=60)
        self._connection.sock = socket.socket(socket.AF_UNIX)
        self._connection.sock.connect(str(path))
        self._image = image
        self._parent = cgroup_parent

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Do one call and return its JSON, if any.

        Raises:
            RuntimeError: the status is not 2xx or 304.
        """
        data = None if body is None else json.dumps(body)
        headers = {"Content-Type": "application/json"}
        self._connection.request(method, API + path, data, headers)
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {answer.status} {text[:200]!r}")
        return json.loads(text) if text.startswith((b"{", b"[")) else None

    def create_and_start(self, name: str, command: list[str], mounts: list[dict[str, Any]]) -> None:
        """Do what a minimal client does for a container like a job's: two calls."""
        self.create(name, command, mounts)
        self.start(name)

    def create(self, name: str, command: list[str], mounts: list[dict[str, Any]]) -> None:
        """Create it."""
        spec = {
            "name": name,
            "image": self._image,
            "command": command,
            "userns": {"nsmode": "keep-id"},
            "netns": {"nsmode": "slirp4netns"},
            "cgroup_parent": f"{self._parent}/{name}",
            "cap_drop": ["ALL"],
            "no_new_privileges": True,
            "init": True,
            "mounts": mounts,
        }
        self.call("POST", "/containers/create", spec)

    def start(self, name: str) -> None:
        """Start it."""
        self.call("POST", f"/containers/{name}/start")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def remove(self, name: str) -> None:
        """Kill and remove."""
        self.call("DELETE", f"/containers/{name}?force=true&timeout=0")
