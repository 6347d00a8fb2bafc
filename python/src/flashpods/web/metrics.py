"""What the metrics of every service have in common."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge, disable_created_metrics
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

import flashpods

# They say when a series began, and would be a third of all series.
disable_created_metrics()  # type: ignore[no-untyped-call] # the library does not type it


def new_registry() -> CollectorRegistry:
    """Return a registry of one's own, so that each app, also in tests, counts from zero."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    built = Gauge("flashpods_build_info", "What runs.", ("version",), registry=registry)
    built.labels(flashpods.__version__).set(1)
    return registry
