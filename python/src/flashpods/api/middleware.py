"""The gate: what every request passes, as one ASGI layer because each layer costs on hot calls.

Order, outermost first:

1. request id, so that every answer and log line has one;
2. rate limit, before the token is looked at, so that guessing tokens is as slow as anything else,
   and before any body is read;
3. token, before the body is read, so that a stranger can't make us hold memory;
4. body: limited and with a deadline, the same for every method; handlers find it complete;
5. the router. Whatever it raises becomes an answer here (see :mod:`flashpods.web.problems`).
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any, Final

from starlette.types import ASGIApp, Receive, Scope, Send

from flashpods.api.auth import Authenticator
from flashpods.api.context import WAITED
from flashpods.errors import BadRequest, FlashpodsError, TooLarge, TooMany
from flashpods.telemetry.metrics import Metrics
from flashpods.web.exchange import Exchange, Head
from flashpods.web.problems import problem, report, translate
from flashpods.web.ratelimit import RateLimiter
from flashpods.web.routing import ROUTE

BODY: Final = "flashpods.body"  # scope key: the request's whole body, bytes
BODY_SECONDS: Final = 30.0
SWALLOW_SECONDS: Final = 1.0
SWALLOW_BYTES: Final = 8 * 1024**2

_OPEN = frozenset({("GET", "/health"), ("HEAD", "/health")})
_PAGE = re.compile(r"/ui(/[a-z]{1,16}\.[a-z]{2,4})?\Z")


def _is_page(method: str, path: str) -> bool:
    """Whether a part of the static page is asked for: it holds no data, see :mod:`.ui`."""
    return method == "GET" and _PAGE.match(path) is not None


class _Gone(Exception):
    """The client closed the connection before its request was complete."""


class Gate:
    """The outermost layer."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        limiter: RateLimiter,
        authenticator: Authenticator,
        metrics: Metrics,
        body_limit: int,
        body_seconds: float = BODY_SECONDS,
    ) -> None:
        """Build it around the router; ``body_limit`` in bytes."""
        self._app = app
        self._limiter = limiter
        self._authenticator = authenticator
        self._metrics = metrics
        self._body_limit = body_limit
        self._body_seconds = body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        head = Head(scope["headers"])
        client = scope.get("client")
        wait, headers = self._limiter.take(client[0] if client else "", time.monotonic())
        headers.append((b"x-request-id", head.request_id))
        exchange = Exchange(send, headers)
        method = scope["method"]
        unread = head.has_body
        try:
            self._admit(wait, method, scope["path"], head)
            if unread:
                scope[BODY] = await self._body(receive)
                unread = False
            await self._app(scope, receive, exchange.send)
        except _Gone:
            return
        except Exception as exc:
            error = translate(exc)
            report(
                error,
                exc,
                request_id=head.request_id.decode(),
                method=method,
                path=self._authenticator.redact(scope["path"]),
            )
            if exchange.status:
                raise  # too late for an answer: the server cuts the connection
            await self._refuse(error, scope, receive, exchange, head if unread else None)
        finally:
            seconds = None if WAITED in scope else (exchange.at or began) - began
            self._metrics.request(method, scope.get(ROUTE, ""), exchange.status, seconds)

    def _admit(self, wait: int, method: str, path: str, head: Head) -> None:
        """Refuse what must go no further, in the order of the module's docstring.

        Raises:
            TooMany: ``rate_limited``.
            Unauthorized: see :meth:`Authenticator.check`.
            TooLarge: the body says that it is over the limit.
        """
        if wait:
            self._metrics.rate_limited()
            raise _too_often(wait)
        if (method, path) not in _OPEN and not _is_page(method, path):
            self._authenticator.check(head.authorization)
        if head.length > self._body_limit:
            raise self._too_large()

    async def _body(self, receive: Receive) -> bytes:
        """Return the whole body.

        Raises:
            TooLarge: it is over the limit; the rest is unread.
            BadRequest: it did not arrive in time; the rest is unread.
        """
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _Gone
                    part = message.get("body", b"")
                    size += len(part)
                    if size > self._body_limit:
                        raise self._too_large()
                    parts.append(part)
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise BadRequest(
                f"the body did not arrive within {self._body_seconds:g} s; send it at once",
                headers={"Connection": "close"},
            ) from None

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"the body is over {self._body_limit} bytes; send less (files go by rsync)",
            details={"limit_bytes": self._body_limit},
        )

    async def _refuse(
        self,
        error: FlashpodsError,
        scope: Scope,
        receive: Receive,
        exchange: Exchange,
        unread: Head | None,
    ) -> None:
        """Answer an error so that the connection stays usable, or closes without a reset.

        A body that is still coming would be taken for the next request, or its sender would be cut
        off before it reads our answer: a short one is read away first; otherwise we answer, say
        ``Connection: close``, and go on reading for a moment.
        """
        reply = problem(error)
        rest = unread is not None and (unread.expects or not await _swallow(receive))
        if not rest:
            await reply(scope, receive, exchange.send)
            return
        headers = [h for h in reply.headers if h[0] != b"connection"]
        headers += [(b"content-length", b"%d" % len(reply.body)), (b"connection", b"close")]
        await exchange.send(
            {"type": "http.response.start", "status": reply.status, "headers": headers}
        )
        body = b"" if scope["method"] == "HEAD" else reply.body
        await exchange.send({"type": "http.response.body", "body": body, "more_body": True})
        if unread is not None and not unread.expects:
            await _swallow(receive)
        await exchange.send({"type": "http.response.body", "body": b""})


def _too_often(wait: int) -> TooMany:
    extra: dict[str, Any] = {"retry_after_seconds": wait}
    return TooMany(
        f"too many requests; wait {wait} s", extra=extra, headers={"Retry-After": str(wait)}
    )


async def _swallow(receive: Receive) -> bool:
    """Read a body away, within bounds; return whether its end was reached."""
    size = 0
    try:
        async with asyncio.timeout(SWALLOW_SECONDS):
            while size <= SWALLOW_BYTES:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return True
                size += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return True
    except TimeoutError:
        return False
    return False
