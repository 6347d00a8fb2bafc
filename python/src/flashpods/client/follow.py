"""Following a job's log: server-sent events whose ids are byte cursors into the log.

The format is the HTML standard's "event stream", with one strictness that fits the host: every
message has an id, the cursor after its text. Text is exact: lines with a carriage return, which no
``data`` line can hold, come in events of the type ``encoded``, as one JSON string.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from flashpods.client.errors import ClientError, HostUnreachable
from flashpods.client.http import Http
from flashpods.client.models import Job

__all__ = ["SseEvent", "SseParser", "follow"]

SILENCE_SECONDS: Final = 60.0  # heartbeats come more often, so this much silence is a dead stream
LIVED_SECONDS: Final = 30.0  # a stream that lasted so long was healthy
RECONNECTS: Final = 10  # in a row without any news; about three minutes
PENDING_WAIT_SECONDS: Final = 30
MAX_EVENT_BYTES: Final = 64 << 20
_TEXT: Final = frozenset({"message", "encoded"})


@dataclass(frozen=True, slots=True)
class SseEvent:
    """One event: its type, its id ("" if it has none) and its data lines joined by LF."""

    type: str
    id: str
    data: str


class SseParser:
    """Turns bytes, cut anywhere, into whole events; an event whose end is missing never shows.

    Lines end with LF or CRLF; the third ending of the standard, a lone CR, the host never sends.
    """

    def __init__(self) -> None:
        self._rest = bytearray()
        self._size = 0
        self._reset()

    def _reset(self) -> None:
        self._type = "message"
        self._id = ""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[SseEvent]:
        """Take in bytes; return the events that they complete.

        Raises:
            ClientError: ``invalid_answer`` for an event over 64 MiB.
        """
        events: list[SseEvent] = []
        self._rest += chunk
        if b"\n" in chunk:
            *lines, rest = self._rest.split(b"\n")
            self._rest = rest
            for line in lines:
                self._line(bytes(line.removesuffix(b"\r")), events)
        if len(self._rest) + self._size > MAX_EVENT_BYTES:
            raise ClientError("invalid_answer", "the host's event stream has an endless event")
        return events

    def _line(self, line: bytes, events: list[SseEvent]) -> None:
        if not line:
            if self._data or self._type != "message":
                data = b"\n".join(self._data).decode("utf-8", "replace")
                events.append(SseEvent(self._type, self._id, data))
            self._reset()
            return
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._size += len(value) + 1
        elif name == b"event":
            self._type = value.decode("utf-8", "replace")
        elif name == b"id":
            self._id = value.decode("utf-8", "replace")


async def follow(
    http: Http, path: str, since: int | None = None
) -> AsyncGenerator[tuple[str, int], None]:
    """Yield ``(text, cursor)`` until the host says that all was sent.

    Every line comes once and whole, whatever happens to the connection or to the API: only a
    complete event moves the cursor, and a reconnect asks for what is behind it. A job that still
    waits is waited for.

    Args:
        http: the host.
        path: ``/jobs/{id}``.
        since: a cursor of an earlier call; None for the log's beginning.

    Raises:
        ClientError: ``job_not_found``, ``logs_deleted``, …
        HostUnreachable: ten reconnects in a row brought nothing.
    """
    stream = _Stream(http, path, since or 0)
    over = False  # the job has ended, so a log that is still missing will never come
    clock = asyncio.get_running_loop().time
    while True:
        began = clock()
        try:
            async with aclosing(stream.pieces()) as pieces:
                async for piece in pieces:
                    yield piece
            if stream.ended:
                return
            raise HostUnreachable("the host ended the log's stream before its end")
        except ClientError as error:
            if error.code == "logs_not_available":
                if over:
                    return
                over = await _await_start(http, path)
                continue
            if clock() - began > LIVED_SECONDS:
                stream.forgive()
            await http.pause(stream.retries, error)


class _Stream:
    """A log's stream over any number of connections: how far it got, and its patience."""

    def __init__(self, http: Http, path: str, cursor: int) -> None:
        self._http = http
        self._path = path
        self._cursor = cursor
        self._connected = False
        self.retries = http.retries()
        self.ended = False

    def forgive(self) -> None:
        """Begin to count failures anew: there was news."""
        self.retries = self._http.retries(RECONNECTS)

    async def pieces(self) -> AsyncGenerator[tuple[str, int], None]:
        """Connect once and yield ``(text, cursor)``; sets :attr:`ended` when all was sent."""
        async with self._http.stream(
            "GET",
            f"{self._path}/output",
            params={"follow": "true", "offset": self._cursor},
            headers={"Accept": "text/event-stream", "Last-Event-ID": str(self._cursor)},
            read_seconds=SILENCE_SECONDS,
        ) as response:
            if not self._connected:
                self._connected = True
                self.forgive()
            parser = SseParser()
            async for chunk in response.aiter_bytes():
                for event in parser.feed(chunk):
                    if event.type == "end":
                        self.ended = True
                        return
                    after = _cursor(event)
                    if event.type not in _TEXT or after <= self._cursor:
                        continue
                    text = _text(event)
                    self._cursor = after
                    self.forgive()
                    yield text, self._cursor


def _text(event: SseEvent) -> str:
    """Return the lines that an event carries, each with its LF."""
    if event.type == "message":
        return event.data + "\n"
    try:
        text = json.loads(event.data)
    except (ValueError, RecursionError):
        text = None
    if not isinstance(text, str):
        raise ClientError("invalid_answer", "the host's event stream has an event without its text")
    return text


def _cursor(event: SseEvent) -> int:
    if not (event.id.isascii() and event.id.isdigit()):
        raise ClientError("invalid_answer", "the host's event stream has an event without a cursor")
    return int(event.id)


async def _await_start(http: Http, path: str) -> bool:
    """Wait until a job that has no log yet moves on; return whether it has ended.

    First a look: it may have moved since it had no log.
    """
    clock = asyncio.get_running_loop().time
    job = Job.from_json((await http.json("GET", path)).body)
    if job.status != "pending":
        return job.terminal
    began = clock()
    params: dict[str, Any] = {"wait": PENDING_WAIT_SECONDS}
    if job.revision is not None:
        params["since"] = job.revision
    answer = await http.json("GET", path, params=params, read_seconds=PENDING_WAIT_SECONDS + 15)
    job = Job.from_json(answer.body)
    if not job.terminal and clock() - began < 0.2:
        await http.sleep(0.2)  # the state changed, yet there is no log: do not spin
    return job.terminal
