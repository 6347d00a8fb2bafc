"""Podman's runtime over a scripted engine, and what the kernel shows of a container."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from flashpods.adapters.podman.look import UNSTORED
from flashpods.adapters.podman.rest import Answer
from flashpods.adapters.podman.runtime import PodmanRuntime
from flashpods.adapters.podman.spec import Engine
from flashpods.config import Podman
from flashpods.testing.runtime import simple_spec

SPEC: Final = simple_spec("0")
NEVER = "0001-01-01T00:00:00Z"
LISTED = {
    "Id": "old",
    "Names": ["job_0"],
    "State": "created",
    "Pid": 0,
    "ExitCode": 0,
    "Labels": {"flashpods-job-id": "0"},
}


class HalfMade:
    """Answers as Podman 4.3 and 5.4 do; ``started``: when it says that the command began."""

    def __init__(self, started: str = NEVER, *, what: str = "in both") -> None:
        self.what = what  # "in storage" or "in the database": alone
        self.unstored = UNSTORED[0]
        self.listed: dict[str, Any] = LISTED
        self.calls: list[str] = []
        self.there = True
        self.state = {
            "Status": "created",
            "Pid": 0,
            "StartedAt": started,
            "FinishedAt": NEVER,
            "ExitCode": 0,
            "OOMKilled": False,
        }

    async def call(self, method: str, path: str, **_: Any) -> Answer:
        kind = "remove" if method == "DELETE" else path.rsplit("/", 1)[1]
        self.calls.append(kind)
        if kind == "remove":
            self.there = False
        if path == "/containers/json":
            return Answer(200, json.dumps([self.listed] if self.there else []).encode())
        if kind == "json" and (self.what == "in storage" or not self.there):
            return Answer(404, b"{}")
        if kind == "json" and self.what == "in the database":
            return Answer(
                500, json.dumps({"message": "getting container: " + self.unstored}).encode()
            )
        if kind == "json":
            labels = {"flashpods-job-id": "0"}
            found = {"Id": "old", "Name": "job_0", "State": self.state}
            return Answer(200, json.dumps({**found, "Config": {"Labels": labels}}).encode())
        if kind in {"create", "init"} and self.there:
            cause = (
                "the container name is already in use"
                if kind == "create"
                else "container `old` already exists"
            )
            return Answer(500, json.dumps({"message": f"crun: {cause}"}).encode())
        return Answer(201, b'{"Id": "new"}')


def runtime(engine: HalfMade, root: Path, monkeypatch: pytest.MonkeyPatch) -> PodmanRuntime:
    settings = Podman(socket=Path("/nowhere/podman.sock"), cgroup_parent="/ctrs")
    made = PodmanRuntime(settings, cgroups=root, proc=root)
    made._engine.known = Engine(version="5.4.2", uid=1, gid=1, controllers=frozenset())
    monkeypatch.setattr(made._rest, "call", engine.call)  # the engine is not there
    return made


def container(root: Path, pid: int) -> None:
    """Make what the kernel shows of a container with that first process."""
    group = root / "ctrs/job_0/libpod-0123"
    group.mkdir(parents=True)
    (group / "cgroup.procs").write_text(f"{pid}\n")
    (root / str(pid)).mkdir()
    (root / str(pid) / "status").write_text(f"NSpid:\t{pid}\t1\n")
    (root / str(pid) / "cgroup").write_text("0::/ctrs/job_0/libpod-0123\n")
