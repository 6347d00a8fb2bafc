"""An API over the in-memory adapters, and a client that speaks ASGI to it."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx

from flashpods.api.app import Api, create_app
from flashpods.bootstrap import bounds_of
from flashpods.config import Settings
from flashpods.errors import FlashpodsError
from flashpods.jobs.changes import InProcessChanges
from flashpods.jobs.model import Artifact, Capacity, Job, JobType, Outcome, Step
from flashpods.jobs.states import JobStatus, Trigger
from flashpods.jobs.submit import Submitter
from flashpods.ports.identity import IdentityChain
from flashpods.services import Services
from flashpods.telemetry.metrics import Metrics
from flashpods.telemetry.sampler import Sampler
from flashpods.telemetry.scrape import Telemetry
from flashpods.telemetry.status import StatusFiles
from flashpods.testing.clock import ManualClock
from flashpods.testing.files import FakeArtifactStore, FakeDiskGauge, FakeWorkspaces
from flashpods.testing.logs import MemoryLogStore
from flashpods.testing.stores import MemoryStore
from flashpods.uploads import Uploads

TOKEN = "t" * 16 + "-one"
OTHER = "u" * 16 + "-two"
AUTH = {"Authorization": f"Bearer {TOKEN}"}
WORKER = {"type": "worker", "command": "make test"}


class Runtime:
    """Answers pings, or fails them."""

    def __init__(self) -> None:
        self.fails: FlashpodsError | None = None
        self.hangs = False
        self.pings = 0

    async def ping(self) -> None:
        self.pings += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.fails:
            raise self.fails


@dataclass
class Rig:
    """The parts, and the moves of a job's life."""

    root: Path
    settings: Settings
    clock: ManualClock = field(default_factory=ManualClock)
    store: MemoryStore = field(default_factory=MemoryStore)
    logs: MemoryLogStore = field(default_factory=MemoryLogStore)
    changes: InProcessChanges = field(default_factory=InProcessChanges)
    runtime: Runtime = field(default_factory=Runtime)
    disk: FakeDiskGauge = field(default_factory=FakeDiskGauge)
    identity: IdentityChain | None = None
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    app: Api = field(init=False)

    def __post_init__(self) -> None:
        self.artifacts = FakeArtifactStore(self.root / "artifacts")
        self.workspaces = FakeWorkspaces(self.root / "trees")
        self.disk.fractions["/work"] = 0.1
        self.app = create_app(self.services())

    def services(self) -> Services:
        async def cancel(job_id: str) -> Job:
            job = await self.store.request_cancel(job_id, at=self.clock.now())
            self.changes.publish(job_id)
            return job

        async def nothing() -> None: ...

        async def stop() -> None:
            self.stopped.set()

        return Services(
            settings=self.settings,
            tokens=(TOKEN.encode(), OTHER.encode()),
            clock=self.clock,
            store=self.store,
            logs=self.logs,
            artifacts=self.artifacts,
            runtime=self.runtime,  # type: ignore[arg-type] # only ping is called here
            disk=self.disk,
            identity=self.identity,
            changes=self.changes,
            submitter=self.submitter(),
            uploads=self.uploads(),
            telemetry=self.telemetry(),
            cancel=cancel,
            started_at=self.clock.now(),
            start=nothing,
            wind_down=lambda: None,
            stop=stop,
        )

    def telemetry(self) -> Telemetry:
        sampler = Sampler(
            store=self.store,
            logs=self.logs,
            runtime=self.runtime,  # type: ignore[arg-type] # only ping is called here
            disk=self.disk,
            trees={"/work": "work"},
            identity=self.identity,
            files=StatusFiles(cleanup=self.root / "cleanup.json", backup=self.root / "backup.json"),
            every=1,
        )
        return Telemetry(Metrics(), sampler, self.store, Capacity(cpus=8, memory_gb=32))

    def submitter(self) -> Submitter:
        jobs = self.settings.jobs
        return Submitter(
            store=self.store,
            clock=self.clock,
            disk=self.disk,
            critical=0.85,
            capacity=Capacity(cpus=8, memory_gb=32),
            bounds={JobType.WORKER: bounds_of(jobs.worker), JobType.AGENT: bounds_of(jobs.agent)},
            images={JobType.WORKER: jobs.worker.image, JobType.AGENT: jobs.agent.image},
            accepted=lambda _: None,
        )

    def uploads(self) -> Uploads:
        uploads = self.settings.uploads
        return Uploads(
            store=self.store,
            workspaces=self.workspaces,
            clock=self.clock,
            max_bytes=uploads.max_bytes,
            total_bytes=uploads.total_bytes,
            max_files=uploads.max_files,
            finalize_within=timedelta(seconds=1800),
            use_within=timedelta(seconds=3600),
        )

    def client(self, auth: bool = True, **options: Any) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False, **options)
        return httpx.AsyncClient(
            transport=transport, base_url="http://api", headers=AUTH if auth else {}
        )

    async def job(self, **body: Any) -> str:
        job, _ = await self.app.context.services.submitter.submit({**WORKER, **body})
        return job.id

    async def move(
        self, job_id: str, trigger: Trigger, *, publish: bool = True, **more: Any
    ) -> Job:
        job = await self.store.get(job_id)
        assert job is not None
        step = Step(why=trigger.value, at=self.clock.now(), **more)
        job = await self.store.advance(job_id, job.status, trigger, step)
        if publish:
            self.changes.publish(job_id)
        return job

    async def running(self, **body: Any) -> str:
        job_id = await self.job(**body)
        await self.move(job_id, Trigger.LAUNCH)
        await self.move(job_id, Trigger.STARTED)
        return job_id

    async def log(self, job_id: str, *lines: str) -> None:
        for line in lines:
            await self.logs.write(job_id, line, at=self.clock.now())

    async def end(
        self,
        job_id: str,
        trigger: Trigger = Trigger.SUCCEED,
        *,
        artifacts: Iterable[Artifact] | None = None,
        exit_code: int | None = 0,
        error: str | None = None,
    ) -> Job:
        await self.logs.drain(job_id)
        return await self.move(
            job_id, trigger, outcome=Outcome(exit_code=exit_code, error=error), artifacts=artifacts
        )

    async def completed(self, files: dict[str, bytes] | None = None) -> str:
        """Return a completed job with those artifacts; ``a/b`` is a file in a directory."""
        job_id = await self.running()
        staging = await self.artifacts.prepare(job_id)
        for name, data in (files or {}).items():
            path = staging / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        collected = await self.artifacts.collect(job_id, at=self.clock.now())
        await self.end(job_id, artifacts=collected.artifacts)
        return job_id

    async def in_state(self, status: JobStatus) -> str:
        """Return a job in that state."""
        job_id = await self.job()
        ways = {
            JobStatus.PENDING: [],
            JobStatus.STARTING: [Trigger.LAUNCH],
            JobStatus.RUNNING: [Trigger.LAUNCH, Trigger.STARTED],
            JobStatus.COMPLETED: [Trigger.LAUNCH, Trigger.STARTED, Trigger.SUCCEED],
            JobStatus.FAILED: [Trigger.FAIL],
            JobStatus.TIMED_OUT: [Trigger.LAUNCH, Trigger.STARTED, Trigger.TIME_OUT],
            JobStatus.CANCELLED: [Trigger.CANCEL],
            JobStatus.CLEANING: [Trigger.FAIL, Trigger.CLEAN],
            JobStatus.CLEANED: [Trigger.FAIL, Trigger.CLEAN, Trigger.CLEANED],
        }
        for trigger in ways[status]:
            self.clock.advance(2)
            await self.move(job_id, trigger)
        return job_id


def make_rig(root: Path, **http: Any) -> Rig:
    """Build a rig; ``http`` overrides settings of that section."""
    rate = {"rate_per_second": 1_000_000, "rate_burst": 1_000_000, **http}
    return Rig(root, Settings(http=rate))


def refused(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Assert an error's status, code and form; return its body."""
    body: dict[str, Any] = json.loads(response.content)
    assert (response.status_code, body["error"]) == (status, code), body
    assert isinstance(body["message"], str)
    assert body["message"]
    assert isinstance(body["details"], dict)
    assert response.headers["content-type"] == "application/json"
    return body


async def waiting_in(rig: Rig, count: int = 1) -> None:
    """Return once so many requests are held open; TimeoutError after two minutes."""
    async with asyncio.timeout(120):
        while len(rig.app.context.held) != count:  # noqa: ASYNC110 - the app has no event for it
            await asyncio.sleep(0.001)


def unknown_id() -> str:
    return secrets.token_hex(8)


class Stream:
    """An ASGI exchange driven by hand: a client that reads when the test says so."""

    def __init__(self, app: Api, path: str, query: str = "", headers: dict[str, str] | None = None):
        raw = {**AUTH, **(headers or {})}
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": [(k.lower().encode(), v.encode()) for k, v in raw.items()],
            "client": ("10.0.0.2", 1234),
            "server": ("10.0.0.1", 8080),
        }
        self._app = app
        self._sent: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue(1)
        self._gone = asyncio.Event()
        self._asked = False
        self._task: asyncio.Task[None] | None = None
        self.status = 0
        self.headers: dict[str, str] = {}

    async def _receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def __aenter__(self) -> Stream:
        self._task = asyncio.create_task(self._app(self.scope, self._receive, self._sent.put))
        start = await self._message()
        self.status = start["status"]
        self.headers = {k.decode(): v.decode() for k, v in start["headers"]}
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._gone.set()
        async with asyncio.timeout(120):
            while not self._task.done():
                if self._sent.empty():
                    await asyncio.sleep(0)
                else:
                    self._sent.get_nowait()
            await self._task

    async def _message(self) -> MutableMapping[str, Any]:
        async with asyncio.timeout(120):
            return await self._sent.get()

    async def part(self) -> bytes | None:
        """Return the next piece of the body; None when it has ended."""
        message = await self._message()
        if not message.get("more_body", False):
            assert not message.get("body")
            return None
        return bytes(message["body"])

    async def event(self) -> dict[str, str] | None:
        """Return the next event's fields, data joined by LF; None when the stream has ended."""
        part = await self.part()
        if part is None:
            return None
        assert part.endswith(b"\n\n")
        fields: dict[str, str] = {}
        for line in part.decode()[:-2].split("\n"):
            name, _, value = line.partition(": ")
            fields[name] = f"{fields[name]}\n{value}" if name in fields else value
        return fields
