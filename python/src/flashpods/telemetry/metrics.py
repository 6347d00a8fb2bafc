"""What happens in the API's process; every label has a bounded set of values, none is an id."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from flashpods.jobs.model import Job, JobType, Phase
from flashpods.jobs.states import JobStatus
from flashpods.ports import RecoveryAction
from flashpods.web.metrics import new_registry

METHODS: Final = frozenset({"GET", "POST", "DELETE", "PUT", "PATCH", "OPTIONS"})
ANY: Final = "any"  # the route of all answers that are no success: what refuses them is shared
OPERATIONS: Final = ("create", "start", "inspect", "list", "end", "other")
_OPERATION: Final = {
    "create": "create",
    "init": "start",
    "start": "start",
    "kill": "end",
    "json": "inspect",
}
PHASES: Final = ("pulling", "creating", "running", "stopping", "collecting")
RECOVERY: Final[tuple[RecoveryAction, ...]] = (
    "resumed", "restarted", "orphan_removed", "orphan_stayed", "tree_discarded", "deferred",
)  # fmt: skip

# Few buckets: each is a series for every route. The alerts' thresholds are among them.
HTTP_BUCKETS: Final = (0.05, 1, 5)
PODMAN_BUCKETS: Final = (0.1, 1, 10)
QUEUE_BUCKETS: Final = (0.5, 2, 10, 60)
PHASE_BUCKETS: Final = (1, 30, 600)

MOST_SPANS: Final = 4096  # jobs that another process ended leave theirs behind


class Metrics:
    """A registry of its own, so that each app, also in tests, counts from zero.

    It is the :class:`flashpods.ports.Observer` of the jobs' lines.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Register everything; what can be known shows from the start, at zero."""
        self.registry = new_registry()
        self._monotonic = monotonic
        self._spans: dict[str, tuple[str, float]] = {}  # job → the phase it is in, since when
        self._http()
        self._jobs()
        self._engine()

    def _http(self) -> None:
        registry = self.registry
        self._requests = Histogram(
            "flashpods_http_request_duration_seconds",
            "Time to the first byte of the answer. Answers that are no success share a route.",
            ("method", "route", "status"),
            buckets=HTTP_BUCKETS,
            registry=registry,
        )
        self._refusals = Counter(
            "flashpods_http_errors",
            "Answers that are no success, by route.",
            ("method", "route", "status"),
            registry=registry,
        )
        self._children: dict[tuple[str, str, int], tuple[Histogram, Counter | None]] = {}
        self._limited = Counter(
            "flashpods_http_rate_limited", "Requests over their client's rate.", registry=registry
        )
        self.streams = Gauge(
            "flashpods_held_requests", "Open event streams and waits.", registry=registry
        )

    def _jobs(self) -> None:
        registry = self.registry
        self._queued = Histogram(
            "flashpods_job_queue_duration_seconds",
            "From a job's acceptance until its command executes.",
            ("type",),
            buckets=QUEUE_BUCKETS,
            registry=registry,
        )
        for kind in JobType:
            self._queued.labels(kind.value)
        self._phases = Histogram(
            "flashpods_job_phase_duration_seconds",
            "How long jobs were in a phase that this process saw begin and end.",
            ("phase",),
            buckets=PHASE_BUCKETS,
            registry=registry,
        )
        for phase in PHASES:
            self._phases.labels(phase)
        self._recoveries = Counter(
            "flashpods_recovery_actions",
            "What recovery did to jobs, containers, workspaces; deferred: a round that failed.",
            ("action",),
            registry=registry,
        )
        for action in RECOVERY:
            self._recoveries.labels(action)

    def _engine(self) -> None:
        self._calls = Histogram(
            "flashpods_podman_call_duration_seconds",
            "Answered calls to Podman, without pulls and waits for a container's end.",
            ("operation",),
            buckets=PODMAN_BUCKETS,
            registry=self.registry,
        )
        self._call_of = {operation: self._calls.labels(operation) for operation in OPERATIONS}
        self._call_errors = Counter(
            "flashpods_podman_call_errors",
            "Calls to Podman that it did not answer in time, or answered with 5xx.",
            ("kind",),
            registry=self.registry,
        )
        for kind in ("unanswered", "refused"):
            self._call_errors.labels(kind)

    # ------------------------------------------------------------------ requests

    def request(self, method: str, route: str, status: int, seconds: float | None) -> None:
        """Count one request; ``route`` is a template, empty where none matched.

        ``seconds`` None: it waited as its caller asked, which says nothing of ours.
        """
        key = (method, route, status // 100)
        children = self._children.get(key)
        if children is None:
            children = self._add(method, route, status)
            if method in METHODS:
                self._children[key] = children
        duration, refusal = children
        if seconds is not None:
            duration.observe(seconds)
        if refusal is not None:
            refusal.inc()

    def _add(self, method: str, route: str, status: int) -> tuple[Histogram, Counter | None]:
        # none: the client left before there was an answer.
        shown = f"{status // 100}xx" if status else "none"
        known = "GET" if method == "HEAD" else method if method in METHODS else "other"
        place = route or "unmatched"
        if status and status < 400:
            return self._requests.labels(known, place, shown), None
        return self._requests.labels(ANY, ANY, shown), self._refusals.labels(known, place, shown)

    def rate_limited(self) -> None:
        """Count a request over its client's rate."""
        self._limited.inc()

    # ------------------------------------------------------------------ jobs

    def entered(self, job: Job) -> None:
        """Time the phase that this one ends, and the wait of a job that begins to run."""
        now = self._monotonic()
        before = self._spans.pop(job.id, None)
        phase = _phase(job)
        if before is not None and before[0] == phase:
            self._spans[job.id] = before
            return
        if before is not None:
            self._phases.labels(before[0]).observe(now - before[1])
        if phase is not None:
            self._spans[job.id] = (phase, now)
            if len(self._spans) > MOST_SPANS:
                self._spans.pop(next(iter(self._spans)))
        if phase == "running" and job.started_at is not None and (before or ("",))[0] != "running":
            waited = (job.started_at - job.created_at).total_seconds()
            self._queued.labels(job.type.value).observe(max(waited, 0))

    def recovered(self, action: RecoveryAction) -> None:
        """Count what recovery did."""
        self._recoveries.labels(action).inc()

    # ------------------------------------------------------------------ Podman

    def podman_call(self, method: str, path: str, status: int | None, seconds: float) -> None:
        """Count a call to the engine; ``status`` None: it did not answer."""
        if status is None:
            self._call_errors.labels("unanswered").inc()
            return
        self._call_of[operation_of(method, path)].observe(seconds)
        if status >= 500:
            self._call_errors.labels("refused").inc()


def _phase(job: Job) -> str | None:
    """Return the phase that is timed; None in ``pending`` and after the end."""
    if not job.active or job.status is JobStatus.PENDING:
        return None
    if job.phase is not None:
        return job.phase.value
    return "running" if job.status is JobStatus.RUNNING else Phase.CREATING.value


def operation_of(method: str, path: str) -> str:
    """Return which of :data:`OPERATIONS` a call of libpod's interface is."""
    if path == "/containers/json":
        return "list"
    if not path.startswith("/containers/"):
        return "other"
    return "end" if method == "DELETE" else _OPERATION.get(path.rpartition("/")[2], "other")
