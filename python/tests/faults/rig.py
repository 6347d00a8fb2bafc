"""A stack that is made to suffer, and what is looked at afterwards.

A :class:`Rig` remembers what the API acknowledged; :meth:`Rig.verdict` gathers the evidence and
has it judged by :mod:`checker`, again and again for the contract's 15 s, since what recovery owes
may take that long.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import secrets
import socket
import sqlite3
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import httpx
from checker import RECOVERY_SECONDS, Event, Evidence, Log, Row, violations

from flashpods_dev.machine import RSYNC_UID, Machine
from flashpods_dev.service import twins
from flashpods_dev.stack import MiniStack

CAPACITY = (
    8,
    16,
)  # CPUs and GB that the stacks pretend: enough for some jobs, little enough to bind
SETTLE_SECONDS = 15.0
LINES = 40
# What a kill may do to a job: contract section 2, and a start that the engine died in.
ALLOWED_ERRORS = frozenset({None, "container_not_found_on_recovery", "exit_status_lost"})
# The engine died in its init: the OCI runtime has the container, the engine does not know it. It
# never ran; to make it anew would be a job's second container.
HALF_MADE = "already exists: OCI runtime error"
ACTIVE = ("pending", "starting", "running")
NUMBERED = re.compile(r"\] line (\d+)$", re.MULTILINE)

SETTINGS: dict[str, Any] = {
    "http": {"rate_per_second": 1e6, "rate_burst": 1_000_000},
    "development": {"pretend_cpus": CAPACITY[0], "pretend_memory_gb": CAPACITY[1]},
    "jobs": {"grace_seconds": 0.3},
}


def counting(lines: int = LINES, pause: float = 0, then: str = "") -> str:
    """Return a command that writes numbered lines and an artifact."""
    wait = f"; sleep {pause}" if pause else ""
    loop = f"i=0; while [ $i -lt {lines} ]; do echo line $i; i=$((i+1)){wait}; done"
    return f"{loop}; echo x >/artifacts/x; {then}"


class Rig:
    """One stack, its clients, and what it has promised."""

    def __init__(
        self,
        state: Path,
        machine: Machine,
        overrides: Mapping[str, Any] | None = None,
        *,
        parts: Sequence[str] = ("podman", "api"),
    ) -> None:
        merged = {**SETTINGS, **(overrides or {})}
        for key, value in SETTINGS.items():
            merged[key] = {**value, **(overrides or {}).get(key, {})}
        self.stack = MiniStack(state, machine, overrides=merged, parts=parts)
        self.jobs: set[str] = set()
        self.uploads: set[str] = set()
        self.lines: dict[str, int] = {}  # job → numbered lines that it writes
        self.running: set[str] = set()  # meant to outlive the experiment's faults
        self.created: dict[str, set[str]] = defaultdict(set)
        self.cancelled: set[str] = set()  # whose DELETE may not have been answered
        self.reads: list[float] = []
        self.client: httpx.AsyncClient

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Have a client of this event loop."""
        async with self.new_client() as self.client:
            yield

    def new_client(self, seconds: float = 30) -> httpx.AsyncClient:
        token = self.stack.layout.token.read_text().strip()
        return httpx.AsyncClient(
            base_url=self.stack.api_url,
            headers={"Authorization": f"Bearer {token}"},
            trust_env=False,
            timeout=seconds,
        )

    # ------------------------------------------------------------------ requests

    async def ask(self, method: str, path: str, **options: Any) -> httpx.Response | None:
        """Make a request; None if the connection broke, so that nothing was acknowledged."""
        try:
            return await self.client.request(method, path, **options)
        except httpx.TransportError:
            return None

    async def post(self, command: str, **fields: Any) -> str | None:
        """POST a worker; remember it if it is acknowledged, and return its id."""
        body = {"type": "worker", "command": command, "cpus": 1, "memory_gb": 1, **fields}
        answer = await self.ask("POST", "/jobs", json=body)
        if answer is None or answer.status_code not in (200, 201):
            return None
        job_id = str(answer.json()["job_id"])
        self.jobs.add(job_id)
        return job_id

    async def count(self, lines: int = LINES, pause: float = 0, **fields: Any) -> str | None:
        """POST a worker that writes numbered lines."""
        job_id = await self.post(counting(lines, pause), **fields)
        if job_id:
            self.lines[job_id] = lines
        return job_id

    async def must(self, job_id: str | None) -> str:
        assert job_id is not None, f"the job was refused; {self.stack.api.tail()}"
        return job_id

    async def bystander(self) -> str:
        """Start a job that writes numbered lines until it is cancelled; return it running."""
        command = "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.05; done"
        job_id = await self.must(await self.post(command))
        await self.until(job_id, "running")
        self.running.add(job_id)
        return job_id

    async def dismiss(self) -> None:
        """Cancel the jobs that were to outlive the faults."""
        for job_id in sorted(self.running):
            answer = await self.client.delete(f"/jobs/{job_id}")
            assert answer.status_code == 200, answer.text
            await self.until(job_id, "cancelled")
        self.running.clear()

    async def until(self, job_id: str, *states: str, seconds: float = 30) -> dict[str, Any]:
        """Wait for one of the states and return the row."""
        end = time.monotonic() + seconds
        row: dict[str, Any] = {}
        while row.get("status") not in states:
            assert time.monotonic() < end, f"not {states} within {seconds} s: {row}"
            answer = await self.ask("GET", f"/jobs/{job_id}", params={"wait": 1} if row else {})
            if answer is not None and answer.status_code == 200:
                row = answer.json()
            else:
                await asyncio.sleep(0.05)  # it is away
        return row

    async def ended(self, job_id: str, seconds: float = 30) -> dict[str, Any]:
        ends = ("completed", "failed", "timed_out", "cancelled", "cleaning", "cleaned")
        return await self.until(job_id, *ends, seconds=seconds)

    async def upload(self, *, project: str | None = "p", finalize: bool = True) -> str | None:
        """Reserve an id, put a small tree where rsync would, finalize; None if one step failed."""
        answer = await self.ask("POST", "/uploads", json={"project": project} if project else {})
        if answer is None or answer.status_code != 201:
            return None
        upload_id = str(answer.json()["upload_id"])
        self.uploads.add(upload_id)
        self.plant(upload_id)
        if finalize:
            done = await self.ask("POST", f"/uploads/{upload_id}/finalize")
            if done is None or done.status_code != 200:
                return None
        return upload_id

    def plant(self, upload_id: str) -> None:
        """Put a tree into the rsync module, as its user owns it."""
        tree = self.stack.layout.trees / "transfers" / upload_id
        (tree / "d").mkdir(parents=True)
        (tree / "d" / "f").write_text("x" * 1000)
        for path in (tree, tree / "d", tree / "d" / "f"):
            os.chown(path, RSYNC_UID, RSYNC_UID)

    # ------------------------------------------------------------------ life and death

    async def start(self, *wrap: str, env: Mapping[str, str] | None = None) -> None:
        """Start the API, which must be dead, with these variables alone; return when it answers."""
        self.stack.use_api(*wrap, env=env)
        await asyncio.to_thread(self.stack.api.start)

    async def restart(self, *wrap: str, env: Mapping[str, str] | None = None) -> None:
        await asyncio.to_thread(self.stack.api.terminate)
        await self.start(*wrap, env=env)

    async def died(self, seconds: float = 15) -> bool:
        """Whether the API is dead within that time."""
        end = time.monotonic() + seconds
        while self.stack.api.alive and time.monotonic() < end:  # noqa: ASYNC110 - a process has no event
            await asyncio.sleep(0.01)
        return not self.stack.api.alive

    async def recovered(self, since: float, seconds: float = 3 * SETTLE_SECONDS) -> float:
        """Return how long it took since ``since`` until only what is meant to run is there.

        Raises:
            AssertionError: it is not so within ``seconds``.
        """
        end = time.monotonic() + seconds
        while left := await asyncio.to_thread(self.unsettled):
            assert time.monotonic() < end, f"not recovered within {seconds} s: {left}"
            await asyncio.sleep(0.05)
        return time.monotonic() - since

    def unsettled(self) -> list[str]:
        """Return active jobs and leftovers that are not meant to be."""
        sql = f"SELECT id, status FROM jobs WHERE status IN {ACTIVE}"
        active = [f"{i} {status}" for i, status in self.rows(sql) if i not in self.running]
        if active:
            return active
        extra = set(self.containers()) - {f"job_{job_id}" for job_id in self.running}
        return [*extra, *self.leftovers()]

    # ------------------------------------------------------------------ what is there

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        uri = f"{self.stack.layout.database.as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=10)) as connection:
            return connection.execute(sql).fetchall()

    def engine(self, path: str) -> Any:
        """GET from the engine's REST interface."""
        connection = http.client.HTTPConnection("podman", timeout=10)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(10)
        with closing(connection):
            connection.sock.connect(str(self.stack.layout.socket))
            connection.request("GET", f"/v4.0.0/libpod{path}")
            return json.loads(connection.getresponse().read())

    def containers(self) -> list[str]:
        names = [c["Names"][0] for c in self.engine("/containers/json?all=true") or []]
        return sorted(name for name in names if name.startswith("job_"))

    def note_created(self) -> None:
        """Take in the engine's record of containers created (podman-events(1), kept as a file)."""
        file = self.stack.layout.run / "libpod" / "tmp" / "events" / "events.log"
        for line in file.read_text().splitlines() if file.exists() else ():
            with suppress(ValueError):  # the last one, while it is being written
                event = json.loads(line)
                if event.get("Status") == "create" and event.get("Type") == "container":
                    self.created[event["Name"]].add(event["ID"])

    def leftovers(self) -> list[str]:
        """Return directories, cgroups and mounts that no job meant to run explains."""
        layout = self.stack.layout
        places = [layout.trees / "work", layout.root / "artifacts" / ".staging"]
        places += [layout.root / "capture", self.stack.cgroup_dir / "ctrs"]
        found = [p for place in places if place.is_dir() for p in place.iterdir() if p.is_dir()]
        left = [str(p) for p in found if not any(j in p.name for j in self.running)]
        states = dict(self.rows("SELECT id, state FROM uploads"))
        # ``uploading`` with its tree moved: a finalize that was killed, and may be repeated.
        expected = {"transfers": ("uploading",), "finalized": ("uploading", "finalized")}
        for name, right in expected.items():
            left += [
                f"{tree} ({states.get(tree.name)})"
                for tree in (layout.trees / name).iterdir()
                if tree.name != ".bases" and states.get(tree.name, "uploading") not in right
            ]
        mounts = self.mounts()
        if len(mounts) > len(self.running):
            left.append(f"{len(mounts)} container mounts for {len(self.running)} jobs")
        return left

    def mounts(self) -> list[str]:
        """Return the containers' root mounts as the engine sees them."""
        for pid in twins(self.stack.podman.pid):
            with suppress(OSError):
                lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
                store = f"{self.stack.layout.engine}/store/overlay/"
                return [x for x in lines if x.split()[4].startswith(store) and "merged" in x]
        return []

    async def logs(self) -> dict[str, Log]:
        """Return the numbered lines of each job that writes them."""
        states = dict(self.rows("SELECT id, status FROM jobs WHERE log_deleted_at IS NULL"))
        found: dict[str, Log] = {}
        for job_id in {*self.lines, *self.running}:
            if states.get(job_id) in ("pending", "cleaning", "cleaned", None):
                continue
            found[job_id] = await self.log_of(job_id, whole=states[job_id] == "completed")
        return found

    async def log_of(self, job_id: str, *, whole: bool, seconds: float = 15) -> Log:
        """Return a job's numbered lines; ``whole``: all that it was to write must be there."""
        end = time.monotonic() + seconds
        while True:
            answer = await self.ask("GET", f"/jobs/{job_id}/output", params={"tail": 10000})
            if answer is not None and answer.status_code in (200, 404):
                break
            assert time.monotonic() < end, f"no log of {job_id}: {answer and answer.text}"
            await asyncio.sleep(0.05)  # it is away
        text = str(answer.json().get("output", ""))
        return Log(
            [int(n) for n in NUMBERED.findall(text)], self.lines.get(job_id) if whole else None
        )

    async def evidence(self, recovery: float | None) -> Evidence:
        self.note_created()
        rows = self.rows
        return Evidence(
            capacity=CAPACITY,
            jobs=[Row(*r) for r in rows("SELECT id, status, cpus, memory_gb FROM jobs")],
            events=[
                Event(*r)
                for r in rows("SELECT job_id, from_status, to_status FROM job_events ORDER BY n")
            ],
            uploads=dict(rows("SELECT id, state FROM uploads")),
            acknowledged_jobs=frozenset(self.jobs),
            acknowledged_uploads=frozenset(self.uploads),
            running=frozenset(self.running),
            created={name: frozenset(ids) for name, ids in self.created.items()},
            containers=self.containers(),
            leftovers=self.leftovers(),
            logs=await self.logs(),
            integrity=[str(r[0]) for r in rows("PRAGMA integrity_check")],
            recovery=recovery,
            reads=self.reads,
        )

    async def verdict(self, recovery: float | None = None) -> list[str]:
        """Return the broken invariants that are still broken after :data:`SETTLE_SECONDS`."""
        end = time.monotonic() + SETTLE_SECONDS
        while broken := violations(await self.evidence(recovery)):
            if time.monotonic() > end:
                return broken
            await asyncio.sleep(0.2)
        return self.endings()

    def endings(self) -> list[str]:
        """Return jobs that ended otherwise than a fault of ours may make them end."""
        sql = (
            "SELECT jobs.id, to_status, error, why FROM job_events JOIN jobs ON jobs.id = job_id"
            " WHERE to_status IN ('failed', 'timed_out')"
        )
        return [
            f"job {job_id} ended {status}, {error}: {why}"
            for job_id, status, error, why in self.rows(sql)
            if error not in ALLOWED_ERRORS and job_id not in self.excused and HALF_MADE not in why
        ]

    excused: frozenset[str] = frozenset()  # jobs whose failure the experiment wants

    # ------------------------------------------------------------------ unrelated readers

    @asynccontextmanager
    async def readers(self, count: int = 2) -> AsyncIterator[None]:
        """Read lists and capacity meanwhile, 20 times a second each, and keep how long it took."""
        async with asyncio.TaskGroup() as group, self.new_client(5) as client:
            tasks = [group.create_task(self._read(client)) for _ in range(count)]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()

    async def _read(self, client: httpx.AsyncClient) -> None:
        while True:
            for path in ("/jobs?limit=5", "/capacity"):
                begun = time.monotonic()
                try:
                    answer = await client.get(path)
                except (httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError):
                    pass  # it is dead or dying: how long that lasts is the recovery's figure
                except httpx.TimeoutException:
                    self.reads.append(5.0)
                else:
                    assert answer.status_code in (200, 503), answer.text
                    self.reads.append(time.monotonic() - begun)
                await asyncio.sleep(0.05)


def new_key() -> str:
    """Return a client_job_id, UUIDv4."""
    h = secrets.token_hex(16)
    return f"{h[:8]}-{h[8:12]}-4{h[13:16]}-8{h[17:20]}-{h[20:]}"


async def soon(condition: Callable[[], bool], what: str, seconds: float = 15) -> None:
    """Wait for what has no event."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.01)


__all__ = ["RECOVERY_SECONDS", "Rig", "counting", "new_key", "soon"]
