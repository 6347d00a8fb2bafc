"""A connection between the laptop and the host that fails as tunnels and busy hosts do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from types import TracebackType
from typing import Self

CHUNK = 16384


class Proxy:
    """A TCP proxy on 127.0.0.1; each attribute may be set at any time.

    ``plan`` is called for each connection's first bytes, and each HTTP request's, and says what
    becomes of it:
    None, passed on; bytes, an answer that the host never sees the request of; ``"lose"``, the host
    gets the request and the laptop no answer; a number, cut after so many bytes to the host.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self.plan: Callable[[bytes], bytes | str | int | None] = lambda first: None
        self.down = False  # connections are cut at once
        self.bytes_per_second: int | None = None  # towards the laptop
        self.to_host = 0
        self.to_laptop = 0
        self.first_lines: list[str] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def address(self) -> str:
        """``127.0.0.1:PORT``."""
        assert self._server is not None
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    @property
    def url(self) -> str:
        """``http://127.0.0.1:PORT``."""
        return f"http://{self.address}"

    def cut(self) -> None:
        """Cut every connection now."""
        for task in self._tasks:
            task.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.down:
            return
        host_reader, host_writer = await asyncio.open_connection(*self._target)
        answers = asyncio.ensure_future(self._pump_answers(host_reader, writer))
        left: int | None = None
        first = True
        try:
            while data := await reader.read(CHUNK):
                request = data.startswith((b"GET ", b"POST ", b"DELETE "))
                if request:
                    self.first_lines.append(data.split(b"\r\n", 1)[0].decode())
                decision = self.plan(data) if first or request else None
                first = False
                if isinstance(decision, bytes):
                    writer.write(decision)
                    await writer.drain()
                    return
                if decision == "lose":
                    answers.cancel()
                    host_writer.write(data)
                    await host_writer.drain()
                    await host_reader.read(1)  # the host has acted, and answers
                    return
                if isinstance(decision, int):
                    left = decision
                if left is not None:
                    left -= len(data)
                    if left < 0:
                        return
                self.to_host += len(data)
                host_writer.write(data)
                await host_writer.drain()
            host_writer.write_eof()
            await answers
        finally:
            answers.cancel()
            await asyncio.gather(answers, return_exceptions=True)
            host_writer.transport.abort()

    async def _pump_answers(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                writer.write(data)
                await writer.drain()
                self.to_laptop += len(data)
                if self.bytes_per_second is not None:
                    await asyncio.sleep(len(data) / self.bytes_per_second)
            writer.close()


def refusal(status: int, code: str, *headers: str) -> bytes:
    """Return an answer of the host's shape, whole, that ends its connection."""
    body = b'{"error":"%s","message":"a storm","details":{}}' % code.encode()
    head = [
        f"HTTP/1.1 {status} Storm",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *headers,
    ]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body
