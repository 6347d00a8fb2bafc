"""The application: its gate, ``GET /tokens`` and ``GET /health``."""

from __future__ import annotations

import math
import secrets
import time
from dataclasses import dataclass, field
from traceback import format_tb
from typing import Any, Final

import structlog
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

import flashpods
from flashpods.config_tokens import Tokens
from flashpods.errors import BadRequest, FlashpodsError, NotFound, TooMany, Unavailable
from flashpods.ports.identity import ContainerTypes, SvidVerifier
from flashpods.token.audit import Audit
from flashpods.token.door import SEAT, Door, Seat
from flashpods.token.exchange import Attempt, Exchanger
from flashpods.token.metrics import Metrics
from flashpods.token.policy import Policy
from flashpods.token.secrets import Vault
from flashpods.web.checks import Checks, Finding
from flashpods.web.exchange import Exchange, Head
from flashpods.web.problems import problem, translate
from flashpods.web.ratelimit import RateLimiter
from flashpods.web.reply import Reply, json_reply
from flashpods.web.routing import add, settle

HEAD: Final = "flashpods.head"  # scope key: the request's Head
MOST_PEERS: Final = 4096  # whose rates are kept

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the service is made of; :mod:`flashpods.token.main` picks the adapters."""

    settings: Tokens
    vault: Vault
    verifier: SvidVerifier
    types: ContainerTypes
    door: Door
    metrics: Metrics
    started_at: float = field(default_factory=time.monotonic)


class TokenService(FastAPI):
    """A FastAPI application behind its gate, which is its only layer."""

    def __init__(self, parts: Parts, **options: Any) -> None:
        """Keep the parts; the routes are added by :func:`create_app`."""
        self.parts = parts
        self.door = parts.door
        self.audit = Audit(parts.metrics)
        self.limiter = RateLimiter(
            rate=parts.settings.rate_per_second,
            burst=parts.settings.rate_burst,
            clients=MOST_PEERS,
        )
        super().__init__(**options)

    def build_middleware_stack(self) -> ASGIApp:
        """Put the gate around the router: it answers every exception, so nothing else is needed."""
        return Gate(self.router, self.limiter, self.audit)


class Gate:
    """What every request passes: its rate, no body, and an answer to whatever fails.

    The request's id is always ours: one that came in might be a secret, and would be logged.
    """

    def __init__(self, app: ASGIApp, limiter: RateLimiter, audit: Audit) -> None:
        """Build it around the router."""
        self._app = app
        self._limiter = limiter
        self._audit = audit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        seat: Seat = scope[SEAT]
        head = scope[HEAD] = Head(scope["headers"])
        head.request_id = secrets.token_hex(16).encode()
        wait, headers = self._limiter.take(seat.key, time.monotonic())
        headers += [(b"x-request-id", head.request_id), (b"cache-control", b"no-store")]
        exchange = Exchange(send, headers)
        try:
            self._admit(seat, head, wait)
            await self._app(scope, receive, exchange.send)
        except Exception as exc:
            error = _error_of(exc)
            if not isinstance(exc, FlashpodsError) and error.status == 500:
                _report(exc, head.request_id.decode())
            if exchange.status:
                raise  # too late for an answer: the server cuts the connection
            await problem(error)(scope, receive, exchange.send)

    def _admit(self, seat: Seat, head: Head, wait: int) -> None:
        """Refuse what must go no further.

        Raises:
            TooMany: ``rate_limited``.
            BadRequest: something follows the head.
        """
        if wait:
            self._audit.too_often(seat)
            raise TooMany(
                f"too many requests; wait {wait} s",
                extra={"retry_after_seconds": wait},
                headers={"Retry-After": str(wait), "Connection": "close"},
            )
        if head.has_body:
            raise BadRequest("no call takes a body", headers={"Connection": "close"})


def _error_of(exc: Exception) -> FlashpodsError:
    if isinstance(exc, HTTPException) and exc.status_code == 404:
        return NotFound("there is no such path; there are GET /tokens and GET /health")
    return translate(exc)


def _report(exc: Exception, request_id: str) -> None:
    """Log a fault of ours: its kind and place, not its text, which may quote a secret."""
    where = "".join(format_tb(exc.__traceback__))
    log.error("request failed", request_id=request_id, kind=type(exc).__name__, traceback=where)


class Calls:
    """The handlers."""

    def __init__(self, app: TokenService) -> None:
        """Keep what they use."""
        parts = app.parts
        self._parts = parts
        self._audit = app.audit
        self._exchanger = Exchanger(
            verifier=parts.verifier,
            policy=Policy(parts.settings.policy),
            types=parts.types,
            vault=parts.vault,
        )
        self._health = Checks(
            {"bundle": self._bundle, "secrets": self._secrets, "podman": self._podman},
            time.monotonic,
        )

    async def tokens(self, request: Request) -> Reply:
        """Exchange, and write it down whatever comes of it."""
        began = time.perf_counter()
        seat: Seat = request.scope[SEAT]
        head: Head = request.scope[HEAD]
        attempt = Attempt(container=seat.container())
        outcome, error = "aborted", None
        try:
            answer = await self._exchanger.exchange(head.authorization, attempt)
            outcome = "granted"
            return json_reply(answer)
        except FlashpodsError as e:
            outcome, error = e.code, e
            raise
        except Exception:
            outcome = "internal_error"
            raise
        finally:
            self._audit.exchange(
                attempt,
                seat,
                outcome=outcome,
                error=error,
                request_id=head.request_id.decode(),
                seconds=time.perf_counter() - began,
            )

    async def health(self, _: Request) -> Reply:
        """Say whether an exchange could succeed."""
        checks = await self._health.look()
        healthy = all(found["status"] == "ok" for found in checks.values())
        return json_reply(
            {
                "status": "healthy" if healthy else "degraded",
                "version": flashpods.__version__,
                "uptime_seconds": round(time.monotonic() - self._parts.started_at, 3),
                "checks": checks,
            },
            200 if healthy else 503,
        )

    async def _bundle(self) -> Finding:
        return {"status": "ok", "age_seconds": round(self._parts.verifier.age(), 1)}

    async def _secrets(self) -> Finding:
        if not self._parts.vault.filled:
            return {"status": "failing", "message": "there are no secrets"}
        return {"status": "ok"}

    async def _podman(self) -> Finding:
        await self._parts.types.ping()
        return {"status": "ok"}


async def render_metrics(parts: Parts) -> bytes:
    """Return the text of a scrape."""

    def age() -> float:
        try:
            return parts.verifier.age()
        except Unavailable:
            return math.nan

    return parts.metrics.render(age)


def create_app(parts: Parts) -> TokenService:
    """Build the application."""
    app = TokenService(
        parts,
        title="Flashpods token service",
        version=flashpods.__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    calls = Calls(app)
    add(app, "GET", "/tokens", calls.tokens, {"operationId": "getTokens"})
    add(app, "GET", "/health", calls.health, {"operationId": "getHealth"})
    add(app, "HEAD", "/health", calls.health, {"operationId": "headHealth"})
    settle(app)
    return app
