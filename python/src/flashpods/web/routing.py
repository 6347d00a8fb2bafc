"""Routes that hand the bare request to their handler and send what it returns.

FastAPI's own machinery (dependencies, exit stacks, response models) costs more than the handlers
of the hot calls do. It stays in charge of the table of routes and of the OpenAPI document; the
parameters are declared through ``openapi_extra`` and read by :mod:`flashpods.api.parse`.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from flashpods.errors import MethodNotAllowed

ROUTE: Final = "flashpods.route"  # scope key: the route's template, set by the router

Handler = Callable[[Request], Awaitable[ASGIApp]]


class LeanRoute(APIRoute):
    """A route whose handler takes the request and returns an ASGI application."""

    allow: str = ""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        """Take FastAPI's declaration, replace its way of calling the handler."""
        super().__init__(path, endpoint, **options)
        # Starlette's "$" also matches before a line feed at the end, which would then be cut off
        # the last parameter, and its "." matches no line feed, so that a name's rule never saw it.
        self.path_regex = re.compile(rf"{self.path_regex.pattern.removesuffix('$')}\Z", re.DOTALL)

        async def call(scope: Scope, receive: Receive, send: Send) -> None:
            scope[ROUTE] = path
            answer = await endpoint(Request(scope, receive))
            await answer(scope, receive, send)

        self.app = call

    def matches(self, scope: Scope) -> Any:
        """Match the path; FastAPI's detour is for included routers, which we don't have."""
        return Route.matches(self, scope)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the handler.

        Raises:
            MethodNotAllowed: names every method of the path, not only this route's.
        """
        if self.methods and scope["method"] not in self.methods:
            scope[ROUTE] = self.path
            raise MethodNotAllowed(
                f"this path does not take {scope['method'][:16]}; it takes {self.allow}",
                headers={"Allow": self.allow},
            )
        await self.app(scope, receive, send)


def add(
    app: FastAPI,
    method: str,
    path: str,
    handler: Handler,
    operation: Mapping[str, Any],
    *,
    status: int = 200,
) -> None:
    """Add a call, with its OpenAPI operation object."""
    app.router.add_api_route(
        path,
        handler,
        methods=[method],
        operation_id=operation["operationId"],
        status_code=status,
        response_model=None,
        response_class=Response,
        openapi_extra=dict(operation),
        route_class_override=LeanRoute,
    )


def settle(app: FastAPI) -> None:
    """Tell every route which methods its path takes; call it after the last :func:`add`."""
    routes = [route for route in app.router.routes if isinstance(route, LeanRoute)]
    for route in routes:
        same = {m for r in routes if r.path == route.path for m in r.methods or ()}
        route.allow = ", ".join(sorted(same))
