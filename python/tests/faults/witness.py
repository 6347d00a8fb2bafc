"""What is to be seen of a stack from outside: its database, its engine, its directories."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import secrets
import socket
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Collection
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx

from flashpods_dev.service import twins
from flashpods_dev.stack import MiniStack

ACTIVE = ("pending", "starting", "running")
CORES = len(os.sched_getaffinity(0))


class Witness:
    """Looks, and changes nothing."""

    def __init__(self, stack: MiniStack) -> None:
        self.stack = stack
        self.created: dict[str, set[str]] = defaultdict(set)  # container name → ids
        self.started: dict[str, set[str]] = defaultdict(set)
        self.forgiven: set[str] = set()  # containers whose state the OCI runtime may keep

    def rows(self, sql: str, *values: str) -> list[tuple[Any, ...]]:
        uri = f"{self.stack.layout.database.as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=60)) as connection:
            return connection.execute(sql, values).fetchall()

    def engine(self, path: str) -> Any:
        """GET from the engine's REST interface."""
        connection = http.client.HTTPConnection("podman", timeout=60)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(60)
        with closing(connection):
            connection.sock.connect(str(self.stack.layout.socket))
            connection.request("GET", f"/v4.0.0/libpod{path}")
            return json.loads(connection.getresponse().read())

    def containers(self) -> dict[str, str]:
        """Return name → id of the jobs' containers, in any state."""
        found = {c["Names"][0]: c["Id"] for c in self.engine("/containers/json?all=true") or []}
        return {name: i for name, i in found.items() if name.startswith("job_")}

    def reached(self, status: str, *jobs: str) -> bool:
        """Whether one of the jobs has come so far, and maybe further.

        Who looks for the state alone, and stalls, may look too late.
        """
        marks = ", ".join("?" * len(jobs))
        sql = f"SELECT 1 FROM job_events WHERE to_status = ? AND job_id IN ({marks})"
        return bool(self.rows(sql, status, *jobs))

    def note_created(self) -> None:
        """Take in the engine's record (podman-events(1), kept as a file of 1 MB).

        ``started``: what the record says; a service that was killed within its start has run a
        container that the record does not tell of. The numbers in the log do.
        """
        file = self.stack.layout.run / "libpod" / "tmp" / "events" / "events.log"
        books = {"create": self.created, "start": self.started}
        for line in file.read_text().splitlines() if file.exists() else ():
            if '"create"' not in line and '"start"' not in line:
                continue
            with suppress(ValueError):  # the last one, while it is being written
                event = json.loads(line)
                if event.get("Type") == "container" and event.get("Status") in books:
                    books[event["Status"]][event["Name"]].add(event["ID"])

    def leftovers(self, running: Collection[str], containers: Collection[str]) -> list[str]:
        """Return directories, cgroups and mounts that no job meant to run explains.

        Args:
            running: the jobs that are meant to run.
            containers: the ids of the containers that are there.
        """
        layout = self.stack.layout
        places = [layout.trees / "work", layout.root / "artifacts" / ".staging"]
        places += [layout.root / "artifacts" / ".collecting", layout.root / "capture"]
        places += [self.stack.cgroup_dir / "ctrs"]
        found = [p for place in places if place.is_dir() for p in place.iterdir() if p.is_dir()]
        left = [str(p) for p in found if not any(j in p.name for j in running)]
        # What the OCI runtime and conmon keep of a container goes with it.
        for place in (layout.run / "crun", layout.run / "containers" / "overlay-containers"):
            kept = [p for p in place.iterdir() if p.is_dir()] if place.is_dir() else []
            # crun of 2024 keeps compiled seccomp filters for all containers in .cache.
            known = {*containers, *self.forgiven, ".cache"}
            left += [str(p) for p in kept if p.name not in known]
        left += self._trees()
        left += self._unknown()
        mounts = self.mounts()
        if len(mounts) > len(running):
            left.append(f"{len(mounts)} container mounts for {len(running)} jobs")
        return left

    def _trees(self) -> list[str]:
        """Return the trees that are not where their uploads' states say."""
        states = dict(self.rows("SELECT id, state FROM uploads"))
        # ``uploading`` with its tree moved: a finalize that was killed, and may be repeated.
        expected = {"transfers": ("uploading",), "finalized": ("uploading", "finalized")}
        return [
            f"{tree} ({states.get(tree.name)})"
            for name, right in expected.items()
            for tree in (self.stack.layout.trees / name).iterdir()
            if tree.name != ".bases" and states.get(tree.name, "uploading") not in right
        ]

    def _unknown(self) -> list[str]:
        """Return artifacts of jobs that have no row."""
        place = self.stack.layout.root / "artifacts"
        stored = [p for p in place.iterdir() if p.is_dir() and not p.name.startswith(".")]
        known = {i for (i,) in self.rows("SELECT id FROM jobs")} if stored else set()
        return [str(p) for p in stored if p.name not in known and p.name != "lost+found"]

    def mounts(self) -> list[str]:
        """Return the containers' root mounts as the engine sees them."""
        for pid in twins(self.stack.podman.pid):
            with suppress(OSError):
                lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
                store = f"{self.stack.layout.engine}/store/overlay/"
                return [x for x in lines if x.split()[4].startswith(store) and "merged" in x]
        return []


async def answered(client: httpx.AsyncClient, path: str) -> bool:
    """GET; return whether the API was alive, be it that the client gave up waiting for it."""
    try:
        answer = await client.get(path)
    except (httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError):
        return False
    except httpx.TimeoutException:
        return True
    assert answer.status_code == 200, f"GET {path}: {answer.status_code} {answer.text}"
    return True


def pressure() -> float:
    """Return how many processes want a core now, for each core; at least 1."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("procs_running"):
            return max(1.0, int(line.split()[1]) / CORES)
    return 1.0


def new_key() -> str:
    """Return a client_job_id, UUIDv4."""
    h = secrets.token_hex(16)
    return f"{h[:8]}-{h[8:12]}-4{h[13:16]}-8{h[17:20]}-{h[20:]}"


async def soon(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Wait for what has no event."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.01)
