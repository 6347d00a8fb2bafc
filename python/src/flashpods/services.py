"""What the API is given: the ports and use cases, already wired by :mod:`flashpods.bootstrap`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

from flashpods.config import Settings
from flashpods.jobs.model import Job
from flashpods.jobs.submit import Submitter
from flashpods.ports import (
    ArtifactStore,
    Changes,
    Clock,
    ContainerRuntime,
    DiskGauge,
    JobStore,
    LogStore,
)
from flashpods.ports.identity import IdentityChain
from flashpods.telemetry.scrape import Telemetry
from flashpods.uploads import Uploads


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Everything a request may need."""

    settings: Settings
    tokens: tuple[bytes, ...]
    clock: Clock
    store: JobStore
    logs: LogStore
    artifacts: ArtifactStore
    runtime: ContainerRuntime
    disk: DiskGauge
    identity: IdentityChain | None  # None: jobs get no identity
    changes: Changes
    submitter: Submitter
    uploads: Uploads
    telemetry: Telemetry
    cancel: Callable[[str], Awaitable[Job]]  # request_cancel and wake the job's line
    started_at: datetime
    start: Callable[[], Awaitable[None]]  # recovery and background work; called by the lifespan
    wind_down: Callable[[], None]  # at the signal that ends the process, before the last answers
    stop: Callable[[], Awaitable[None]]
