"""uvicorn's HTTP protocol with what it lacks: bounded request heads, and our errors for bad HTTP.

It feeds a request's head to the parser however long it gets and however long it takes, and answers
what is not HTTP in plain text. All of that happens before any application code runs, so it is
closed here. https://github.com/encode/uvicorn (protocols/http/httptools_impl.py)
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from http import HTTPStatus
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from flashpods.errors import BadRequest, FlashpodsError
from flashpods.web.problems import problem
from flashpods.web.ratelimit import RateLimiter

HEAD_BYTES: Final = 64 * 1024
HEAD_SECONDS: Final = 15.0
# A peer that takes nothing for this long is gone: tcp(7), TCP_USER_TIMEOUT, milliseconds.
STALLED_MS: Final = 300_000


class Protocol(HttpToolsProtocol):
    """One connection."""

    head_limit = HEAD_BYTES
    head_seconds = HEAD_SECONDS

    _head_bytes = 0  # of the head that is not complete yet
    _in_head = True
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        """Bound how long a dead or stalled peer holds the connection."""
        super().connection_made(transport)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in {socket.AF_INET, socket.AF_INET6}:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STALLED_MS)
        self._head_timer = self.loop.call_later(self.head_seconds, self._head_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop the timer."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, then look whether the head is still open."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        if not self._in_head or self.transport.is_closing():
            return
        self._head_bytes += len(data)
        if self._head_bytes > self.head_limit:
            self.refuse(
                BadRequest(
                    f"the request's head is over {self.head_limit} bytes; send fewer headers"
                )
            )
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_seconds, self._head_late)

    def on_message_begin(self) -> None:
        """Begin to count."""
        self._in_head = True
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Stop counting."""
        self._in_head = False
        self._stop_timer()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's text is not JSON
        """Answer what is not HTTP in the form of all our errors."""
        self.refuse(BadRequest("this is not valid HTTP/1.1"))

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_late(self) -> None:
        self._head_timer = None
        if self._in_head and not self.transport.is_closing():
            self.transport.close()

    def rate_key(self) -> str:
        """Return whom the application's limiter knows this connection's requests as."""
        return self.client[0] if self.client else ""

    def refuse(self, error: FlashpodsError) -> None:
        """Answer, unless an earlier request's answer is still on its way, and close."""
        before: RequestResponseCycle | None = self.cycle  # uvicorn declares it without None
        if before is None or before.response_complete:
            reply = problem(error)
            head = [
                b"HTTP/1.1 %d %b" % (error.status, HTTPStatus(error.status).phrase.encode()),
                *(b": ".join(h) for h in reply.headers),
                b"content-length: %d" % len(reply.body),
                b"connection: close",
                b"x-request-id: " + secrets.token_hex(16).encode(),
            ]
            limiter = getattr(self.config.app, "limiter", None)
            if isinstance(limiter, RateLimiter):
                head += [b": ".join(h) for h in limiter.take(self.rate_key(), time.monotonic())[1]]
            self.transport.write(b"\r\n".join(head) + b"\r\n\r\n" + reply.body)
        self.transport.close()
