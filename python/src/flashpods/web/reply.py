"""Answers as small ASGI applications, serialised once and sent as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import orjson
from starlette.types import Receive, Scope, Send

Header = tuple[bytes, bytes]

JSON: Final[Header] = (b"content-type", b"application/json")


class Reply:
    """A complete answer. A ``HEAD`` gets the headers of the whole answer and no body."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, body: bytes = b"", headers: Sequence[Header] = ()) -> None:
        """Keep what is to be sent; ``content-length`` is added unless the status has no body."""
        self.status = status
        self.body = body
        self.headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        """Send it."""
        headers = list(self.headers)
        if self.status not in {204, 304}:
            headers.append((b"content-length", b"%d" % len(self.body)))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        body = b"" if scope["method"] == "HEAD" else self.body
        await send({"type": "http.response.body", "body": body})


def to_json(data: Any) -> bytes:
    """Serialise; aware datetimes become RFC 3339 with ``Z``, enumerations their values."""
    return orjson.dumps(data, option=orjson.OPT_UTC_Z)


def json_reply(data: Any, status: int = 200, headers: Sequence[Header] = ()) -> Reply:
    """Answer with a JSON value."""
    return Reply(status, to_json(data), (JSON, *headers))
