"""A request's head, read once, and the answer on its way: what every gate needs."""

from __future__ import annotations

import re
import secrets
import time

from starlette.types import Message, Send

from flashpods.web.reply import Header

_SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}\Z")


class Head:
    """What a gate needs of a request's headers, read in one pass."""

    __slots__ = ("authorization", "chunked", "expects", "length", "request_id")

    def __init__(self, headers: list[Header]) -> None:
        """Read them; a request without a sane id of its own gets one."""
        self.authorization: list[bytes] = []
        self.length = 0
        self.chunked = self.expects = False
        self.request_id = b""
        for name, value in headers:
            if name == b"authorization":
                self.authorization.append(value)
            elif name == b"content-length":
                self.length = int(value) if value.isdigit() else 0
            elif name == b"transfer-encoding":
                self.chunked = True
            elif name == b"expect":
                self.expects = True
            elif name == b"x-request-id" and _SANE_ID.match(value):
                self.request_id = value
        if not self.request_id:
            self.request_id = secrets.token_hex(16).encode()

    @property
    def has_body(self) -> bool:
        """Whether something follows the head."""
        return self.chunked or self.length > 0


class Exchange:
    """Adds the gate's headers to whatever answer passes, and notes its status and time."""

    __slots__ = ("_headers", "_send", "at", "status")

    def __init__(self, send: Send, headers: list[Header]) -> None:
        """Pass everything on to ``send``."""
        self._send = send
        self._headers = headers
        self.status = 0
        self.at = 0.0

    async def send(self, message: Message) -> None:
        """Pass a message on."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.at = time.perf_counter()
            message["headers"] = [*message.get("headers", ()), *self._headers]
        await self._send(message)
