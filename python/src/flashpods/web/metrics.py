"""What the metrics of every service have in common."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Info
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

import flashpods


def new_registry() -> CollectorRegistry:
    """Return a registry of one's own, so that each app, also in tests, counts from zero."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    Info("flashpods_build", "What runs.", registry=registry).info(
        {"version": flashpods.__version__}
    )
    return registry
