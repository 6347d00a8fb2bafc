"""``/health`` and ``/capacity``."""

from __future__ import annotations

import asyncio
import contextlib

from fastapi import FastAPI
from starlette.requests import Request

import flashpods
from flashpods.api import operations
from flashpods.api.context import Context
from flashpods.api.parse import no_query
from flashpods.errors import FlashpodsError
from flashpods.services import Services
from flashpods.web.checks import Checks, Finding
from flashpods.web.reply import Reply, json_reply
from flashpods.web.routing import add


class Health(Checks):
    """Looks at the API's parts."""

    def __init__(self, services: Services) -> None:
        """Look at nothing yet."""
        self._services = services
        self._draining = False
        super().__init__(
            {
                "database": self._database,
                "podman": self._podman,
                "disk": self._disk,
                "identity": self._identity,
            },
            services.clock.monotonic,
        )

    async def _database(self) -> Finding:
        await self._services.store.ping()
        return {"status": "ok"}

    async def draining(self) -> bool:
        """Return what the database says now, or said when it last answered."""
        with contextlib.suppress(FlashpodsError):
            self._draining = await self._services.store.draining()
        return self._draining

    async def _podman(self) -> Finding:
        await self._services.runtime.ping()
        return {"status": "ok"}

    async def _disk(self) -> Finding:
        limits = self._services.settings.disk
        usage = await asyncio.to_thread(self._services.disk.usage)
        used = {path: round(100 * part, 1) for path, part in usage.items()}
        for status, percent in (
            ("failing", limits.critical_percent),
            ("warning", limits.warn_percent),
        ):
            if full := [path for path, part in usage.items() if 100 * part >= percent]:
                message = f"at least {percent} % used: {', '.join(full)}"
                return {"status": status, "message": message, "used_percent": used}
        return {"status": "ok", "used_percent": used}

    async def _identity(self) -> Finding:
        if self._services.identity is None:
            return {"status": "not_configured"}
        await self._services.identity.ping()
        return {"status": "ok"}


class HealthCalls:
    """The handlers."""

    def __init__(self, context: Context) -> None:
        """Keep what they use."""
        self._services = context.services
        self._health = Health(context.services)

    async def health(self, request: Request) -> Reply:
        """Say whether the host can take and run jobs."""
        no_query(request)
        services = self._services
        checks = await self._health.look()
        healthy = all(found["status"] != "failing" for found in checks.values())
        uptime = (services.clock.now() - services.started_at).total_seconds()
        return json_reply(
            {
                "status": "healthy" if healthy else "degraded",
                "version": flashpods.__version__,
                "uptime_seconds": max(0.0, round(uptime, 3)),
                "draining": await self._health.draining(),
                "checks": checks,
            },
            200 if healthy else 503,
            ((b"cache-control", b"no-store"),),
        )

    async def capacity(self, request: Request) -> Reply:
        """Show what admission sees. Memory in GB."""
        no_query(request)
        services = self._services
        host, jobs = services.submitter.capacity, services.settings.jobs
        reserved = await services.store.reserved()
        return json_reply(
            {
                "host": {"cpus": host.cpus, "memory_gb": host.memory_gb},
                "reserved": {"cpus": reserved.cpus, "memory_gb": reserved.memory_gb},
                "available": {
                    "cpus": max(0, host.cpus - reserved.cpus),
                    "memory_gb": max(0, host.memory_gb - reserved.memory_gb),
                },
                "running_jobs": reserved.jobs,
                "reserve": {"cpus": jobs.reserve_cpus, "memory_gb": jobs.reserve_memory_gb},
                "draining": await services.store.draining(),
            }
        )

    async def history(self, request: Request) -> Reply:
        """Show what the sampler remembers."""
        no_query(request)
        sampler = self._services.telemetry.sampler
        return json_reply(
            {
                "every_seconds": sampler.history_seconds,
                "samples": [
                    {
                        "at": point.at,
                        "reserved": {
                            "cpus": point.reserved.cpus,
                            "memory_gb": point.reserved.memory_gb,
                        },
                        "running_jobs": point.reserved.jobs,
                        "disk_used_percent": {
                            tree: round(100 * part, 1) for tree, part in point.disk.items()
                        },
                    }
                    for point in sampler.history
                ],
            }
        )


def register(app: FastAPI, context: Context) -> None:
    """Add the calls."""
    handlers = HealthCalls(context)
    add(app, "GET", "/health", handlers.health, operations.GET_HEALTH)
    add(app, "HEAD", "/health", handlers.health, operations.HEAD_HEALTH)
    add(app, "GET", "/capacity", handlers.capacity, operations.GET_CAPACITY)
    add(app, "GET", "/capacity/history", handlers.history, operations.GET_HISTORY)
