"""What the API tells Prometheus: its instruments, the sampler, the status files, a scrape."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from flashpods.errors import Unavailable
from flashpods.jobs.cleanup import STEPS, Report
from flashpods.jobs.model import (
    Capacity,
    Ended,
    Grant,
    Job,
    JobType,
    NewJob,
    Phase,
    Reserved,
    Tally,
    UploadState,
)
from flashpods.jobs.states import ENDED, JobStatus
from flashpods.telemetry.metrics import OPERATIONS, PHASES, Metrics, operation_of
from flashpods.telemetry.sampler import Sample, Sampler
from flashpods.telemetry.scrape import Telemetry
from flashpods.telemetry.status import (
    BackupStatus,
    CleanupLedger,
    CleanupStatus,
    StatusFiles,
    read_backup,
    read_cleanup,
)
from flashpods.testing.clock import ManualClock
from flashpods.testing.files import FakeDiskGauge
from flashpods.testing.logs import MemoryLogStore
from flashpods.testing.rows import first_row
from flashpods.testing.runtime import MemoryRuntime
from flashpods.testing.stores import MemoryStore

AT = datetime(2026, 11, 26, 2, tzinfo=UTC)
HOST = Capacity(cpus=8, memory_gb=32)
MOST_SERIES = 300


def samples(text: bytes) -> dict[tuple[str, tuple[str, ...]], float]:
    """Return (name, the labels' values by the labels' names) → value."""
    return {
        (sample.name, tuple(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def a_job(**changes: Any) -> Job:
    new = NewJob(
        id="j1",
        client_job_id=None,
        request_sha256="",
        type=JobType.WORKER,
        command="make",
        task=None,
        context=None,
        git_branch=None,
        files_id=None,
        image="i",
        grant=Grant(cpus=1, memory_gb=1, timeout_minutes=1),
    )
    return replace(first_row(new, seq=1, at=AT), **changes)


def phases(metrics: Metrics) -> dict[str, tuple[float, float]]:
    """Return phase → how many ended, and their seconds, of those that there were."""
    found = {
        (sample.name.rpartition("_")[2], sample.labels["phase"]): sample.value
        for family in metrics.registry.collect()
        if family.name == "flashpods_job_phase_duration_seconds"
        for sample in family.samples
        if not sample.name.endswith("_bucket")
    }
    return {
        phase: (found["count", phase], found["sum", phase])
        for phase in PHASES
        if found["count", phase]
    }


def test_phases_are_timed_from_entry_to_entry() -> None:
    now = [0.0]
    metrics = Metrics(lambda: now[0])
    started = AT + timedelta(seconds=42)
    running = {"status": JobStatus.RUNNING, "started_at": started}
    for seconds, changes in (
        (0, {"status": JobStatus.STARTING, "phase": Phase.CREATING}),
        (1, {"status": JobStatus.STARTING, "phase": Phase.PULLING}),
        (30, {"status": JobStatus.STARTING, "phase": Phase.CREATING}),
        (2, running),
        (0.5, running),  # told again: it goes on
        (99.5, {**running, "phase": Phase.STOPPING}),
        (10, {**running, "phase": Phase.COLLECTING}),
        (3, {"status": JobStatus.TIMED_OUT}),
    ):
        now[0] += seconds
        metrics.entered(a_job(**changes))
    assert phases(metrics) == {
        "creating": (2, 3),
        "pulling": (1, 30),
        "running": (1, 100),
        "stopping": (1, 10),
        "collecting": (1, 3),
    }
    queue = "flashpods_job_queue_duration_seconds"
    assert metrics.registry.get_sample_value(f"{queue}_sum", {"type": "worker"}) == 42
    assert metrics.registry.get_sample_value(f"{queue}_count", {"type": "worker"}) == 1


def test_a_job_whose_beginning_was_not_seen_is_not_timed() -> None:
    metrics = Metrics(lambda: 5.0)
    metrics.entered(a_job(status=JobStatus.FAILED))
    metrics.entered(a_job(status=JobStatus.PENDING))
    assert phases(metrics) == {}


def test_jobs_that_another_process_ends_do_not_pile_up() -> None:
    metrics = Metrics(lambda: 5.0)
    for number in range(5000):
        metrics.entered(a_job(id=f"j{number}", status=JobStatus.RUNNING))
    assert len(metrics._spans) <= 4096


@pytest.mark.parametrize(
    ("method", "path", "operation"),
    [
        ("GET", "/_ping", "other"),
        ("POST", "/containers/create", "create"),
        ("POST", "/containers/abc/init", "start"),
        ("POST", "/containers/abc/start", "start"),
        ("POST", "/containers/abc/kill", "end"),
        ("GET", "/containers/abc/json", "inspect"),
        ("GET", "/containers/json", "list"),
        ("DELETE", "/containers/job_1", "end"),
        ("GET", "/images/ubuntu:22.04/exists", "other"),
        ("POST", "/containers/abc/anything", "other"),
    ],
)
def test_calls_of_the_engine_have_bounded_names(method: str, path: str, operation: str) -> None:
    assert operation_of(method, path) == operation
    assert operation in OPERATIONS


def test_a_call_that_podman_did_not_answer_is_an_error_without_a_time() -> None:
    metrics = Metrics()
    metrics.podman_call("GET", "/_ping", 200, 0.01)
    metrics.podman_call("GET", "/_ping", 500, 0.01)
    metrics.podman_call("GET", "/_ping", None, 30)
    value = metrics.registry.get_sample_value
    assert value("flashpods_podman_call_errors_total", {"kind": "unanswered"}) == 1
    assert value("flashpods_podman_call_errors_total", {"kind": "refused"}) == 1
    count = value("flashpods_podman_call_duration_seconds_count", {"operation": "other"})
    assert count == 2


# --------------------------------------------------------------------------- status files


def test_the_ledger_adds_up_over_processes(tmp_path: Path) -> None:
    path = tmp_path / "cleanup.json"
    assert read_cleanup(path) is None
    CleanupLedger(path).round(Report(done={"trim_logs": 2}), at=AT, seconds=0.25)
    later = AT + timedelta(minutes=1)
    second = CleanupLedger(path)
    second.round(
        Report(done={"trim_logs": 1, "finish_jobs": 4}, failed={"trim_logs": 3}),
        at=later,
        seconds=0.5,
    )
    assert read_cleanup(path) == CleanupStatus(
        done={step: {"trim_logs": 3, "finish_jobs": 4}.get(step, 0) for step in STEPS},
        failed=3,
        last_run_at=later.timestamp(),
        last_success_at=AT.timestamp(),
        duration_seconds=0.5,
    )
    assert [entry.name for entry in path.parent.iterdir()] == ["cleanup.json"]


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{}", '{"done": 3}', "[" * 10_000, '{"ok": true}', "\xff", '"x"']
)
def test_a_status_file_that_makes_no_sense_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "status.json"
    path.write_text(text, encoding="latin-1")
    assert read_cleanup(path) is None
    assert read_backup(path) is None
    CleanupLedger(path).round(Report(), at=AT, seconds=0)
    assert read_cleanup(path) is not None


def test_the_backups_word(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    word = {
        "ok": False,
        "finished_at": "2026-11-26T02:00:00Z",
        "last_success_at": AT.timestamp() - 86400,
        "size_bytes": 1000,
        "duration_seconds": 2.5,
        "file": "db-20261126.db.zst",
    }
    path.write_text(json.dumps(word))
    assert read_backup(path) == BackupStatus(
        ok=False,
        finished_at=AT.timestamp(),
        last_success_at=AT.timestamp() - 86400,
        size_bytes=1000,
        duration_seconds=2.5,
    )
    path.write_text(json.dumps({"ok": True, "finished_at": "2026-11-26T02:00:00"}))
    assert read_backup(path) is None, "a time without a zone means nothing"


# --------------------------------------------------------------------------- scrapes


class Chain:
    """An identity chain whose parts answer or not."""

    def __init__(self) -> None:
        self.down: set[str] = set()

    async def ping_agent(self) -> None:
        if "agent" in self.down:
            raise Unavailable("the agent is away")

    async def ping_tokens(self) -> None:
        if "tokens" in self.down:
            raise Unavailable("the token service is away")

    async def ping(self) -> None:
        await self.ping_agent()
        await self.ping_tokens()


class World:
    """A scrape over the adapters in memory."""

    def __init__(self, root: Path) -> None:
        self.store = MemoryStore()
        self.chain = Chain()
        self.clock = ManualClock()
        self.runtime = MemoryRuntime(now=self.clock.now)
        self.disk = FakeDiskGauge()
        self.logs = MemoryLogStore()
        self.root = root
        self.disk.fractions["/tmp/flashpods/work"] = 0.25
        self.sampler = Sampler(
            store=self.store,
            logs=self.logs,
            runtime=self.runtime,
            disk=self.disk,
            trees={"/tmp/flashpods/work": "work"},
            identity=self.chain,
            files=StatusFiles(cleanup=root / "cleanup.json", backup=root / "backup.json"),
            every=1,
        )
        self.metrics = Metrics()
        self.telemetry = Telemetry(self.metrics, self.sampler, self.store, HOST)

    async def scrape(self) -> dict[tuple[str, tuple[str, ...]], float]:
        return samples(await self.telemetry.render())


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_what_is_not_configured_is_absent(world: World) -> None:
    await world.sampler.take()
    names = {name for name, _ in await world.scrape()}
    assert not {name for name in names if "_backup_" in name or "_cleanup_" in name}
    assert "flashpods_component_up" in names


async def test_components_disks_and_sizes_are_sampled(world: World) -> None:
    await world.logs.write("a" * 16, "hello", at=AT)
    await world.sampler.take()
    up = await world.scrape()
    assert [up["flashpods_component_up", (name,)] for name in ("database", "podman")] == [1, 1]
    assert up["flashpods_disk_used_ratio", ("work",)] == 0.25
    assert up["flashpods_job_logs", ()] == 1
    assert up["flashpods_job_logs_bytes", ()] > 5
    assert up["flashpods_artifacts_bytes", ()] == 0
    world.chain.down = {"agent"}
    await world.sampler.take()
    one = await world.scrape()
    assert one["flashpods_component_up", ("spire_agent",)] == 0
    assert one["flashpods_component_up", ("token_service",)] == 1


async def test_a_database_that_is_away_leaves_the_rest_to_be_seen(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.store.set_draining(True, at=AT)
    await world.sampler.take()
    before = await world.scrape()

    async def away() -> None:
        raise Unavailable("locked")

    monkeypatch.setattr(world.store, "ping", away)
    monkeypatch.setattr(world.store, "tally", away)
    monkeypatch.setattr(world.store, "artifact_bytes", away)
    world.sampler._pings["database"] = away
    await world.sampler.take()
    after = await world.scrape()
    assert (before["flashpods_draining", ()], after["flashpods_draining", ()]) == (1, 1)
    assert after["flashpods_component_up", ("database",)] == 0
    assert after["flashpods_component_up", ("podman",)] == 1


async def test_a_disk_that_does_not_answer_is_absent(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> dict[str, float]:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(world.disk, "usage", broken)
    await world.sampler.take()
    assert not [name for name, _ in await world.scrape() if name == "flashpods_disk_used_ratio"]


def routes() -> Iterator[tuple[str, str]]:
    """Yield the calls of contract section 5, and the page's."""
    yield from (("POST", "/uploads"), ("POST", "/uploads/{id}/finalize"), ("GET", "/uploads/{id}"))
    yield from (("DELETE", "/uploads/{id}"), ("POST", "/jobs"), ("GET", "/jobs"))
    yield from (("GET", "/jobs/{id}"), ("DELETE", "/jobs/{id}"), ("GET", "/jobs/{id}/output"))
    yield from (("GET", "/jobs/{id}/artifacts"), ("GET", "/jobs/{id}/artifacts/{name}"))
    yield from (("HEAD", "/jobs/{id}/artifacts/{name}"), ("GET", "/health"), ("HEAD", "/health"))
    yield from (("GET", "/capacity"), ("GET", "/openapi.json"), ("GET", "/ui/{name}"))


async def test_a_host_that_has_seen_everything_stays_within_its_series(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for method, route in routes():
        for status in (200, 404, 503):
            world.metrics.request(method, route, status, 0.01)
    world.metrics.request("GET", "", 404, 0.01)
    reasons = ("exit_code", "oom_killed", "image_not_found", "limits_not_enforced", "upload_lost")
    ended = {
        Ended(type=kind, status=status, reason=reason): 1
        for kind in JobType
        for status in ENDED
        for reason in (reasons if status is JobStatus.FAILED else ("",))
    }

    async def tally() -> Tally:
        return Tally(
            active={},
            reserved=Reserved(cpus=2, memory_gb=4, jobs=1),
            draining=False,
            created={JobType.WORKER: 3},
            ended=ended,
            uploads={},
            uploads_total=dict.fromkeys(UploadState, 1),
            uploads_finalized_bytes=5,
        )

    monkeypatch.setattr(world.store, "tally", tally)
    CleanupLedger(world.root / "cleanup.json").round(Report(), at=AT, seconds=1)
    word = {"ok": True, "finished_at": 5, "last_success_at": 5, "size_bytes": 5}
    (world.root / "backup.json").write_text(json.dumps({**word, "duration_seconds": 1}))
    for tree in ("artifacts", "logs"):
        world.disk.fractions[tree] = 0.5
    await world.sampler.take()
    found = await world.scrape()
    assert found["flashpods_jobs_failed_total", ()] == 2 * len(reasons)
    assert found["flashpods_jobs_finished_total", ("oom_killed", "failed", "agent")] == 1
    assert found["flashpods_capacity_memory_bytes", ()] == 32 * 2**30
    assert found["flashpods_reserved_cpus", ()] == 2
    assert found["flashpods_cleanup_last_success_timestamp_seconds", ()] == AT.timestamp()
    assert (found["flashpods_backup_ok", ()], found["flashpods_backup_size_bytes", ()]) == (1, 5)
    assert len(found) <= MOST_SERIES
    assert not [value for value in found.values() if math.isnan(value)]


def test_a_sample_that_saw_nothing_says_only_when() -> None:
    assert (Sample().at, Sample().up, Sample().log_bytes) == (0.0, {}, None)
