"""``/health`` and ``/capacity``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from fastapi import FastAPI
from starlette.requests import Request

import flashpods
from flashpods.api import operations
from flashpods.api.context import Context
from flashpods.api.parse import no_query
from flashpods.api.reply import Reply, json_reply
from flashpods.api.routing import add
from flashpods.errors import FlashpodsError
from flashpods.services import Services

CHECK_SECONDS: Final = 2.0
SHARED_SECONDS: Final = 1.0

Finding = dict[str, Any]


class Health:
    """Looks at the parts, at most once a second, for all who ask."""

    def __init__(self, services: Services) -> None:
        """Look at nothing yet."""
        self._services = services
        self._looked_at = 0.0
        self._look: asyncio.Task[dict[str, Finding]] | None = None

    async def checks(self) -> dict[str, Finding]:
        """Return check → ``{"status": "ok" | "warning" | "failing" | "not_configured", …}``."""
        now = self._services.clock.monotonic()
        if self._look is None or (self._look.done() and now - self._looked_at >= SHARED_SECONDS):
            self._looked_at = now
            self._look = asyncio.create_task(self._all())
        return await asyncio.shield(self._look)

    async def _all(self) -> dict[str, Finding]:
        names: dict[str, Callable[[], Awaitable[Finding]]] = {
            "database": self._database,
            "podman": self._podman,
            "disk": self._disk,
        }
        found = await asyncio.gather(*(_bounded(check) for check in names.values()))
        # SPIRE's Workload API joins with the identity service; until then there is none to check.
        return {**dict(zip(names, found, strict=True)), "identity": {"status": "not_configured"}}

    async def _database(self) -> Finding:
        await self._services.store.ping()
        return {"status": "ok"}

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


async def _bounded(check: Callable[[], Awaitable[Finding]]) -> Finding:
    """Run a check within its time; a failure is a finding."""
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            return await check()
    except TimeoutError:
        return {"status": "failing", "message": f"no answer within {CHECK_SECONDS:g} s"}
    except FlashpodsError as e:
        return {"status": "failing", "message": e.message}
    except OSError as e:
        return {"status": "failing", "message": e.strerror or type(e).__name__}


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
        checks = await self._health.checks()
        healthy = all(found["status"] != "failing" for found in checks.values())
        uptime = (services.clock.now() - services.started_at).total_seconds()
        return json_reply(
            {
                "status": "healthy" if healthy else "degraded",
                "version": flashpods.__version__,
                "uptime_seconds": max(0.0, round(uptime, 3)),
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


def register(app: FastAPI, context: Context) -> None:
    """Add the calls."""
    handlers = HealthCalls(context)
    add(app, "GET", "/health", handlers.health, operations.GET_HEALTH)
    add(app, "HEAD", "/health", handlers.health, operations.HEAD_HEALTH)
    add(app, "GET", "/capacity", handlers.capacity, operations.GET_CAPACITY)
