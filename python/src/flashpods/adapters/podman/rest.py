"""A lean HTTP/1.1 client for one Unix socket: a bounded pool, and a deadline on every call.

httpx costs 1.2 ms a call here where the engine answers in 0.2 (docs/decisions/0002), and a job's
launch makes five calls. The parser is httptools, which uvicorn uses for the same protocol.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httptools

from flashpods.errors import Unavailable

API = "/v4.0.0/libpod"
READ_BYTES = 64 * 1024
ANSWER_BYTES = 32 * 1024**2
MESSAGE_CHARS = 300
Seen = Callable[[str, str, int | None, float], None]

SAFE = frozenset({"GET", "DELETE"})

# An engine that stood still does all that it was asked meanwhile when it goes on. How long it kept
# us waiting tells how long that may take: not much longer where it is only slow.
RESTLESS_SECONDS = 2.0  # at most
SLOW_SECONDS = 1.0  # it may have stood still; our first call may have met the end of that anyway


def one_line(text: object) -> str:
    """Cut a message of the engine to one line of :data:`MESSAGE_CHARS` characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= MESSAGE_CHARS else f"{line[:MESSAGE_CHARS]}…"


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, whole."""

    status: int
    body: bytes

    @property
    def ok(self) -> bool:
        """Whether the engine did it, or found it done (304)."""
        return self.status < 300 or self.status == 304

    def json(self) -> Any:
        """Decode the body.

        Raises:
            Unavailable: it is not JSON: whoever answers there is not Podman.
        """
        try:
            return json.loads(self.body)
        except ValueError:
            raise Unavailable("Podman's socket answered something that is not JSON") from None

    @property
    def message(self) -> str:
        """The engine's error message, on one line, cut."""
        try:
            found = json.loads(self.body)
        except ValueError:
            found = None
        text = found.get("message") or found.get("cause") if isinstance(found, dict) else None
        return one_line(text or self.body.decode(errors="replace") or f"HTTP {self.status}")


class _Parsed:
    """What the parser's callbacks collect."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.headers_done = False
        self.done = False
        self.keep_alive = False
        self.parser = httptools.HttpResponseParser(self)

    def on_headers_complete(self) -> None:
        self.headers_done = True

    def on_body(self, data: bytes) -> None:
        self.chunks.append(data)

    def on_message_complete(self) -> None:
        self.done = True
        self.keep_alive = self.parser.should_keep_alive()  # forgotten once this returns


class _Closed(Exception):
    """The peer closed the connection before it answered."""


class _Connection:
    """One connection; at most one call at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.reusable = True

    @property
    def alive(self) -> bool:
        return self.reusable and not self._writer.is_closing() and not self._reader.at_eof()

    def close(self) -> None:
        self.reusable = False
        self._writer.close()

    async def stream(self, request: bytes) -> AsyncIterator[tuple[int, list[bytes]]]:
        """Send the request; yield (status, new chunks) for each read once the headers are in."""
        self.reusable = False  # until the answer is complete: a cancelled call spoils it
        parsed = _Parsed()
        self._writer.write(request)
        await self._writer.drain()
        while True:
            data = await self._reader.read(READ_BYTES)
            if not data:
                raise _Closed
            parsed.parser.feed_data(data)
            if parsed.headers_done:
                chunks, parsed.chunks = parsed.chunks, []
                if parsed.done:
                    self.reusable = parsed.keep_alive
                yield parsed.parser.get_status_code(), chunks
            if parsed.done:
                return


class RestClient:
    """Calls to the engine's REST interface (docs.podman.io, "libpod API") on one socket."""

    def __init__(
        self,
        socket: Path,
        *,
        call_seconds: float,
        calls: int,
        waits: int,
        seen: Seen = lambda _method, _path, _status, _seconds: None,
    ) -> None:
        """Set the bounds; nothing is opened yet.

        Args:
            socket: the Unix socket.
            call_seconds: the deadline of a call that names none.
            calls: how many calls run at once; more queue, within their deadline.
            waits: the same for long calls, which have slots of their own.
            seen: is told of each call that is not long: method, path below ``/libpod``, status
                (None: not answered), seconds; it must not raise.
        """
        self._socket = str(socket)
        self._call_seconds = call_seconds
        self._idle: list[_Connection] = []
        self._idle_most = calls
        self._calls = asyncio.Semaphore(calls)
        self._waits = asyncio.Semaphore(waits)
        self._closed = False
        self._seen = seen
        self._asked: float | None = None  # when we first asked since the last answer
        self._heard = False  # whether it ever answered
        self._calm_at = 0.0

    def restless(self) -> float:
        """Return how many seconds longer calls that nobody waits for may be under way."""
        return max(0.0, self._calm_at - time.monotonic())

    def _answered(self) -> None:
        """Take in that the engine is there, and since when it had not said so."""
        if self._asked is None:
            return  # it has answered another call meanwhile
        now = time.monotonic()
        waited, self._asked = now - self._asked, None
        if not self._heard or waited > SLOW_SECONDS:
            self._calm_at = now + min(2 * waited, RESTLESS_SECONDS)
        self._heard = True

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | Sequence[str]] | None = None,
        body: object = None,
        deadline: float | None = None,
        long: bool = False,
    ) -> Answer:
        """Make one call and return its answer, whatever its status.

        A GET or DELETE whose idle connection turns out to be dead is sent once more; nothing else
        is, because the engine may have done it.

        Args:
            method: the HTTP method.
            path: below ``/libpod``.
            query: the parameters; a list repeats its parameter.
            body: sent as JSON.
            deadline: seconds for everything, the wait for a slot included.
            long: use the slots of long calls.

        Raises:
            Unavailable: nobody answers there, or not in time.
        """
        began = time.monotonic()
        status: int | None = None
        if not long:
            self._asked = self._asked or began
        try:
            answer = await self._call(
                method,
                path,
                _request(method, path, query, body),
                seconds=deadline or self._call_seconds,
                slots=self._waits if long else self._calls,
            )
            status = answer.status
            self._answered()
        except asyncio.CancelledError:
            long = True  # the caller's doing says nothing of the engine
            raise
        finally:
            if not long:
                self._seen(method, path, status, time.monotonic() - began)
        return answer

    async def _call(
        self, method: str, path: str, request: bytes, *, seconds: float, slots: asyncio.Semaphore
    ) -> Answer:
        try:
            async with asyncio.timeout(seconds), slots:
                try:
                    return await self._exchange(request)
                except (_Closed, ConnectionError):
                    if method not in SAFE:
                        raise
                    return await self._exchange(request)
        except TimeoutError:
            raise Unavailable(
                f"Podman did not answer {method} {path} within {seconds:g} s; is it overloaded?"
            ) from None
        except (_Closed, OSError, httptools.HttpParserError) as e:
            raise self._unreachable(e) from e

    async def lines(
        self, method: str, path: str, *, query: Mapping[str, str], idle_seconds: float
    ) -> AsyncIterator[tuple[int, bytes]]:
        """Make one call and yield (status, line) as the lines come; at most READ_BYTES a line.

        Raises:
            Unavailable: nobody answers there, or nothing came for ``idle_seconds``.
        """
        connection = None
        rest = b""
        status = 0
        try:
            async with asyncio.timeout(idle_seconds) as limit:
                connection = await self._connect()
                async for status, chunks in connection.stream(_request(method, path, query, None)):
                    limit.reschedule(asyncio.get_running_loop().time() + idle_seconds)
                    *whole, rest = (rest + b"".join(chunks)).split(b"\n")
                    for line in whole:
                        yield status, line
                    if len(rest) > READ_BYTES:
                        raise Unavailable("Podman sent a line without end")
            yield status, rest
        except TimeoutError:
            raise Unavailable(f"Podman made no progress for {idle_seconds:g} s") from None
        except (_Closed, OSError, httptools.HttpParserError) as e:
            raise self._unreachable(e) from e
        finally:
            if connection is not None:
                connection.close()

    async def close(self) -> None:
        """Close the idle connections; calls in flight fail or finish, later ones open anew."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    async def _exchange(self, request: bytes) -> Answer:
        async with self._connection() as connection:
            body: list[bytes] = []
            final = size = 0
            async for status, chunks in connection.stream(request):
                final = status
                body += chunks
                size += sum(map(len, chunks))
                if size > ANSWER_BYTES:
                    raise Unavailable(f"Podman's answer is over {ANSWER_BYTES} bytes")
            return Answer(final, b"".join(body))

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[_Connection]:
        connection = None
        while self._idle and connection is None:
            candidate = self._idle.pop()
            if candidate.alive:
                connection = candidate
            else:
                candidate.close()
        if connection is None:
            connection = await self._connect()
        try:
            yield connection
        finally:
            if connection.alive and not self._closed and len(self._idle) < self._idle_most:
                self._idle.append(connection)
            else:
                connection.close()

    async def _connect(self) -> _Connection:
        return _Connection(*await asyncio.open_unix_connection(self._socket, limit=READ_BYTES))

    def _unreachable(self, error: Exception) -> Unavailable:
        why = getattr(error, "strerror", None) or "it closed the connection"
        return Unavailable(f"Podman does not answer at {self._socket}: {why}")


def _request(
    method: str, path: str, query: Mapping[str, str | Sequence[str]] | None, body: object
) -> bytes:
    target = f"{API}{path}" + (f"?{urlencode(query, doseq=True)}" if query else "")
    payload = b"" if body is None else json.dumps(body).encode()
    head = [f"{method} {target} HTTP/1.1", "Host: podman", f"Content-Length: {len(payload)}"]
    if payload:
        head.append("Content-Type: application/json")
    return "\r\n".join([*head, "", ""]).encode("ascii") + payload
