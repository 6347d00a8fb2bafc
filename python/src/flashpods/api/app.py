"""Builds the application from the services; nothing of it is global."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.requests import Request
from starlette.types import ASGIApp

import flashpods
from flashpods.api import (
    artifacts,
    health,
    jobs,
    openapi_parts,
    operations,
    output,
    schemas,
    ui,
    uploads,
)
from flashpods.api.auth import Authenticator
from flashpods.api.context import Context
from flashpods.api.middleware import Gate
from flashpods.api.parse import no_query
from flashpods.api.token_watch import TokenWatch
from flashpods.config import locate_token_file
from flashpods.services import Services
from flashpods.web.ratelimit import RateLimiter
from flashpods.web.reply import JSON, Reply, to_json
from flashpods.web.routing import LeanRoute, add, settle

STOP_SECONDS = 1.5

log = structlog.get_logger(__name__)


class Api(FastAPI):
    """A FastAPI application behind our gate, which is its only layer."""

    def __init__(self, context: Context, **options: Any) -> None:
        """Keep the context; the routes are added by :func:`create_app`."""
        self.context = context
        services = context.services
        http = services.settings.http
        self.authenticator = Authenticator(services.tokens)
        self.tokens = TokenWatch(locate_token_file(http), self.authenticator)
        self.limiter = RateLimiter(
            rate=http.rate_per_second, burst=http.rate_burst, clients=http.rate_clients
        )
        super().__init__(**options)

    def build_middleware_stack(self) -> ASGIApp:
        """Put the gate around the router: it answers every exception, so nothing else is needed."""
        services = self.context.services
        return Gate(
            self.router,
            limiter=self.limiter,
            authenticator=self.authenticator,
            metrics=self.context.metrics,
            body_limit=services.settings.http.body_limit,
        )

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document, made once."""
        if self.openapi_schema is None:
            document = get_openapi(
                title=self.title,
                version=self.version,
                openapi_version="3.1.0",
                description=self.description,
                routes=[r for r in self.router.routes if isinstance(r, LeanRoute)],
            )
            components = document.setdefault("components", {})
            components["schemas"] = schemas.COMPONENTS
            components["headers"] = openapi_parts.HEADERS
            components["securitySchemes"] = {
                "bearer": {"type": "http", "scheme": "bearer", "description": "The host's token"}
            }
            self.openapi_schema = document
        return self.openapi_schema


def create_app(services: Services) -> Api:
    """Build the application.

    Its lifespan calls ``services.start`` and ``services.stop``. Call ``app.context.held.close()``
    when the server is told to stop: open event streams then end, and clients resume.
    """
    context = Context(services)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await services.start()
        watch = asyncio.create_task(app.tokens.run(), name="token watch")
        try:
            yield
        finally:
            watch.cancel()
            context.held.close()
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await services.stop()
            except TimeoutError:
                # What it did not end, recovery finds at the next start.
                log.warning("background work did not stop in time", seconds=STOP_SECONDS)

    app = Api(
        context,
        title="Flashpods",
        version=flashpods.__version__,
        description="Runs a coding agent's builds, tests and sub-agents in rootless containers.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    for part in (jobs, uploads, output, artifacts, health, ui):
        part.register(app, context)

    document: list[bytes] = []

    async def openapi(request: Request) -> Reply:
        no_query(request)
        if not document:
            document.append(to_json(app.openapi()))
        return Reply(200, document[0], (JSON,))

    add(app, "GET", "/openapi.json", openapi, operations.GET_OPENAPI)
    settle(app)
    return app
