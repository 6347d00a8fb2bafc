"""The one place that picks adapters and wires them to the use cases."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Self

from flashpods.adapters.clock import SystemClock
from flashpods.adapters.diskmeter import SystemDiskMeter
from flashpods.adapters.files.artifacts import FileArtifactStore
from flashpods.adapters.files.disk import StatvfsGauge
from flashpods.adapters.files.logs import FileLogStore
from flashpods.adapters.files.workspaces import FileWorkspaces
from flashpods.adapters.identity import UnixIdentityChain
from flashpods.adapters.podman.rest import Seen
from flashpods.adapters.podman.runtime import PodmanRuntime
from flashpods.adapters.sqlite.migrations import SchemaError
from flashpods.adapters.sqlite.store import SqliteStore
from flashpods.config import GB, Agent, Settings, Worker, locate_token_file, read_tokens
from flashpods.config_base import ConfigError
from flashpods.config_identity import AGENT_SOCKET, job_env, job_mounts
from flashpods.jobs.admission import Bounds
from flashpods.jobs.changes import InProcessChanges
from flashpods.jobs.cleanup import Cleaner, Report, Retention
from flashpods.jobs.disk import Budget, DiskWatch
from flashpods.jobs.line import Line, Policy
from flashpods.jobs.model import Capacity, Grant, JobType
from flashpods.jobs.recovery import Recovery
from flashpods.jobs.submit import Submitter
from flashpods.jobs.supervisor import Supervisor
from flashpods.ports import Observer
from flashpods.ports.identity import IdentityChain
from flashpods.services import Services
from flashpods.telemetry.metrics import Metrics
from flashpods.telemetry.sampler import Sampler
from flashpods.telemetry.scrape import Telemetry
from flashpods.telemetry.status import status_files
from flashpods.uploads import Uploads


def host_capacity(settings: Settings) -> Capacity:
    """Return what this host offers to jobs: its CPUs and whole GiB of memory, less the reserve.

    Raises:
        ConfigError: the reserve leaves nothing.
    """
    development, jobs = settings.development, settings.jobs
    cpus = development.pretend_cpus or len(os.sched_getaffinity(0))
    memory = development.pretend_memory_gb or (
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // GB
    )
    capacity = Capacity(cpus=cpus - jobs.reserve_cpus, memory_gb=memory - jobs.reserve_memory_gb)
    if capacity.cpus < 1 or capacity.memory_gb < 1:
        raise ConfigError(
            f"jobs.reserve_cpus {jobs.reserve_cpus} and jobs.reserve_memory_gb "
            f"{jobs.reserve_memory_gb} leave nothing of {cpus} CPUs and {memory} GB; lower them"
        )
    return capacity


def bounds_of(kind: Worker) -> Bounds:
    """Return the defaults and maxima of a type of job."""
    return Bounds(
        default=Grant(
            cpus=kind.cpus, memory_gb=kind.memory_gb, timeout_minutes=kind.timeout_minutes
        ),
        most=Grant(
            cpus=kind.max_cpus,
            memory_gb=kind.max_memory_gb,
            timeout_minutes=kind.max_timeout_minutes,
        ),
    )


def _agent_env(agent: Agent) -> dict[str, str]:
    """Return what the host tells the entrypoint of the agent's image."""
    said = {"FLASHPODS_AGENT_COMMAND": agent.command, "FLASHPODS_GIT_URL": agent.git_url}
    return {name: value for name, value in said.items() if value is not None}


def _policy(settings: Settings) -> Policy:
    jobs, podman = settings.jobs, settings.podman
    return Policy(
        grace=jobs.grace_seconds,
        starting=jobs.starting_seconds,
        backstop_slack=jobs.backstop_slack_seconds,
        recovery_every=jobs.recovery_seconds,
        agent_env=_agent_env(jobs.agent),
        # More starts at once only queue on Podman's storage lock.
        launch_slots=podman.launch_slots or 2 * (os.cpu_count() or 1),
        pids=podman.pids_limit,
        bases=settings.uploads.bases,
        allow_unenforced_limits=settings.development.allow_unenforced_limits,
        mounts={
            **{target: Path(source) for target, source in podman.mounts.items()},
            **job_mounts(settings.identity),
        },
        env=job_env(settings.identity),
    )


def _check_directories(settings: Settings) -> None:
    """Refuse directories that we can't use, before anything starts.

    Raises:
        ConfigError: names the setting, the path and what is wrong.
    """
    paths = settings.paths
    for name, path in (
        ("database", paths.database.parent),
        ("transfers", paths.transfers),
        ("finalized", paths.finalized),
        ("work", paths.work),
        ("artifacts", paths.artifacts),
        ("capture", paths.capture),
        ("logs", paths.logs),
    ):
        if not path.is_dir():
            raise ConfigError(f"paths.{name}: {path} is not a directory; create it")
        need = os.R_OK | os.X_OK | (0 if name == "transfers" else os.W_OK)
        if not os.access(path, need):
            raise ConfigError(f"paths.{name}: {path} is not accessible to uid {os.getuid()}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapters:
    """The real adapters over one configuration; both processes open the same ones."""

    clock: SystemClock
    store: SqliteStore
    logs: FileLogStore
    artifacts: FileArtifactStore
    workspaces: FileWorkspaces
    runtime: PodmanRuntime
    disk: StatvfsGauge
    meter: SystemDiskMeter

    @classmethod
    async def open(cls, settings: Settings, seen: Seen | None = None) -> Self:
        """Check the directories, migrate and open the database; the engine may be away.

        ``seen`` is told of the calls to the engine.

        Raises:
            ConfigError: a directory or the database can't be used, or the trees are not on one
                file system.
        """
        _check_directories(settings)
        paths, output = settings.paths, settings.output
        workspaces = FileWorkspaces(
            paths.transfers,
            paths.finalized,
            paths.work,
            most_entries=settings.uploads.max_files,
        )
        workspaces.check()
        artifacts = FileArtifactStore(
            paths.artifacts,
            file_bytes=output.artifact_file_bytes,
            job_bytes=output.artifact_job_bytes,
            max_files=output.artifact_files,
        )
        artifacts.check()
        try:
            store = await SqliteStore.open(paths.database)
        except SchemaError as e:
            raise ConfigError(str(e)) from e
        logs = FileLogStore(paths.logs, paths.capture, log_bytes=output.log_bytes)
        return cls(
            clock=SystemClock(),
            store=store,
            logs=logs,
            artifacts=artifacts,
            workspaces=workspaces,
            runtime=PodmanRuntime(
                settings.podman,
                log_max_bytes=logs.capture_max_bytes,
                seen=seen or (lambda _method, _path, _status, _seconds: None),
            ),
            disk=StatvfsGauge((paths.work, paths.artifacts, paths.logs)),
            meter=SystemDiskMeter(staging=artifacts.staging, work=paths.work),
        )

    async def close(self) -> None:
        """Close everything."""
        await self.logs.close()
        await self.artifacts.close()
        await self.meter.close()
        await self.runtime.close()
        await self.store.close()


def _line(
    settings: Settings, adapters: Adapters, changes: InProcessChanges, observer: Observer
) -> Line:
    return Line(
        store=adapters.store,
        uploads=adapters.store,
        runtime=adapters.runtime,
        logs=adapters.logs,
        artifacts=adapters.artifacts,
        workspaces=adapters.workspaces,
        clock=adapters.clock,
        changes=changes,
        disk=DiskWatch(
            adapters.meter,
            adapters.runtime,
            adapters.clock,
            Budget(
                bytes=settings.jobs.disk_bytes,
                entries=settings.jobs.disk_files,
                guard=settings.disk.guard_percent / 100,
            ),
        ),
        policy=_policy(settings),
        observer=observer,
    )


def _submitter(
    settings: Settings, adapters: Adapters, capacity: Capacity, supervisor: Supervisor
) -> Submitter:
    jobs = settings.jobs
    return Submitter(
        store=adapters.store,
        clock=adapters.clock,
        disk=adapters.disk,
        critical=settings.disk.critical_percent / 100,
        capacity=capacity,
        bounds={JobType.WORKER: bounds_of(jobs.worker), JobType.AGENT: bounds_of(jobs.agent)},
        images={JobType.WORKER: jobs.worker.image, JobType.AGENT: jobs.agent.image},
        accepted=supervisor.begin,
    )


def _uploads(settings: Settings, adapters: Adapters) -> Uploads:
    uploads = settings.uploads
    return Uploads(
        store=adapters.store,
        workspaces=adapters.workspaces,
        clock=adapters.clock,
        max_bytes=uploads.max_bytes,
        total_bytes=uploads.total_bytes,
        max_files=uploads.max_files,
        finalize_within=timedelta(seconds=uploads.finalize_within_seconds),
        use_within=timedelta(seconds=uploads.use_within_seconds),
    )


def _identity(settings: Settings) -> IdentityChain | None:
    identity = settings.identity
    if not identity.enabled:
        return None
    return UnixIdentityChain(identity.spire_socket_dir / AGENT_SOCKET, identity.token_socket)


def _telemetry(
    settings: Settings, adapters: Adapters, metrics: Metrics, capacity: Capacity
) -> Telemetry:
    paths = settings.paths
    sampler = Sampler(
        store=adapters.store,
        logs=adapters.logs,
        runtime=adapters.runtime,
        disk=adapters.disk,
        trees={
            str(paths.work): "work",
            str(paths.artifacts): "artifacts",
            str(paths.logs): "logs",
        },
        identity=_identity(settings),
        files=status_files(settings),
        every=settings.http.metrics_sample_seconds,
    )
    return Telemetry(metrics, sampler, adapters.store, capacity)


async def build(settings: Settings) -> Services:
    """Wire the API's process.

    Raises:
        ConfigError: the token file, a directory or the database can't be used.
    """
    tokens = read_tokens(locate_token_file(settings.http))
    capacity = host_capacity(settings)
    metrics = Metrics()
    adapters = await Adapters.open(settings, metrics.podman_call)
    telemetry = _telemetry(settings, adapters, metrics, capacity)
    changes = InProcessChanges()
    line = _line(settings, adapters, changes, metrics)
    supervisor = Supervisor(line)
    recovery = Recovery(line, supervisor)
    background: list[asyncio.Task[None]] = []

    async def start() -> None:
        background.append(asyncio.create_task(recovery.run(), name="recovery"))
        background.append(asyncio.create_task(line.disk.run(), name="disk watch"))
        background.append(asyncio.create_task(telemetry.sampler.run(), name="metrics sampler"))

    async def stop() -> None:
        for task in background:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await supervisor.close()
        await adapters.close()

    return Services(
        settings=settings,
        tokens=tokens,
        clock=adapters.clock,
        store=adapters.store,
        logs=adapters.logs,
        artifacts=adapters.artifacts,
        runtime=adapters.runtime,
        disk=adapters.disk,
        identity=_identity(settings),
        changes=changes,
        submitter=_submitter(settings, adapters, capacity, supervisor),
        uploads=_uploads(settings, adapters),
        telemetry=telemetry,
        cancel=supervisor.cancel,
        started_at=adapters.clock.now(),
        start=start,
        wind_down=supervisor.wind_down,
        stop=stop,
    )


def build_cleaner(
    settings: Settings,
    adapters: Adapters,
    *,
    told: Callable[[Report, float], None] = lambda _report, _seconds: None,
) -> Cleaner:
    """Wire the cleanup's process; ``told`` is the cleaner's."""
    output, cleanup, uploads = settings.output, settings.cleanup, settings.uploads
    return Cleaner(
        store=adapters.store,
        uploads=adapters.store,
        logs=adapters.logs,
        artifacts=adapters.artifacts,
        workspaces=adapters.workspaces,
        runtime=adapters.runtime,
        clock=adapters.clock,
        retention=Retention(
            logs=timedelta(seconds=output.log_retention_seconds),
            jobs=timedelta(seconds=cleanup.job_retention_seconds),
            artifacts=timedelta(seconds=output.artifact_retention_seconds),
            uploads=timedelta(seconds=uploads.finalize_within_seconds),
            rows=timedelta(seconds=cleanup.upload_row_retention_seconds),
            orphan_grace=timedelta(seconds=cleanup.orphan_grace_seconds),
            logs_total_bytes=output.logs_total_bytes,
            images_total_bytes=cleanup.images_total_bytes,
        ),
        every=cleanup.every_seconds,
        told=told,
    )
