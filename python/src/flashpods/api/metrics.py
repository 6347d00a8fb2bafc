"""Prometheus metrics of the API's process; every label has a bounded set of values."""

from __future__ import annotations

import re
from collections import Counter as Tally
from typing import Final

from prometheus_client import Counter, Gauge, Histogram, generate_latest

from flashpods.jobs.states import ACTIVE, JobStatus
from flashpods.services import Services
from flashpods.web.metrics import new_registry

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS"})
_REASON: Final = re.compile(r"[a-z][a-z0-9_]{0,47}\Z")
_MOST_REASONS: Final = 64
_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """A registry of its own, so that each app, also in tests, counts from zero."""

    def __init__(self) -> None:
        """Register everything."""
        self.registry = registry = new_registry()
        self._requests = Histogram(
            "flashpods_http_request_duration_seconds",
            "Time to the first byte of the answer, by route template.",
            ("method", "route", "status"),
            buckets=_BUCKETS,
            registry=registry,
        )
        self._children: dict[tuple[str, str, int], Histogram] = {}
        self._created = Counter(
            "flashpods_jobs_created", "Jobs accepted.", ("type",), registry=registry
        )
        self._finished = Counter(
            "flashpods_jobs_finished", "Jobs ended.", ("status",), registry=registry
        )
        self._failed = Counter(
            "flashpods_jobs_failed", "Jobs that failed.", ("reason",), registry=registry
        )
        self._reasons: set[str] = set()
        self._jobs = Gauge("flashpods_jobs", "Active jobs.", ("status",), registry=registry)
        self._capacity = Gauge(
            "flashpods_capacity", "What the host offers to jobs.", ("resource",), registry=registry
        )
        self._reserved = Gauge(
            "flashpods_reserved", "What active jobs hold.", ("resource",), registry=registry
        )
        self._draining = Gauge("flashpods_draining", "1: new jobs are refused.", registry=registry)
        self.streams = Gauge(
            "flashpods_held_requests", "Open event streams and waits.", registry=registry
        )

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request; ``route`` is a template, empty where none matched."""
        key = (method, route, status // 100)
        child = self._children.get(key)
        if child is None:
            # 0: the client left before there was an answer.
            shown = f"{status // 100}xx" if status else "none"
            child = self._requests.labels(
                method if method in _METHODS else "other", route or "unmatched", shown
            )
            if method in _METHODS:
                self._children[key] = child
        child.observe(seconds)

    def job_created(self, job_type: str) -> None:
        """Count an accepted job."""
        self._created.labels(job_type).inc()

    def job_ended(self, status: str, reason: str | None) -> None:
        """Count an ended job; ``reason`` is its ``error``, where that is a code."""
        reason = reason or "none"
        if not _REASON.match(reason):
            reason = "other"
        if reason not in self._reasons:
            if len(self._reasons) >= _MOST_REASONS:
                reason = "other"
            self._reasons.add(reason)
        self._finished.labels(status).inc()
        if status == JobStatus.FAILED:
            self._failed.labels(reason).inc()

    async def render(self, services: Services) -> bytes:
        """Return the text of a scrape.

        Raises:
            Unavailable: the database does not answer.
        """
        tally = Tally(job.status for job in await services.store.active())
        for status in ACTIVE:
            self._jobs.labels(status.value).set(tally[status])
        capacity, reserved = services.submitter.capacity, await services.store.reserved()
        self._capacity.labels("cpus").set(capacity.cpus)
        self._capacity.labels("memory_gb").set(capacity.memory_gb)
        self._reserved.labels("cpus").set(reserved.cpus)
        self._reserved.labels("memory_gb").set(reserved.memory_gb)
        self._draining.set(await services.store.draining())
        return generate_latest(self.registry)
