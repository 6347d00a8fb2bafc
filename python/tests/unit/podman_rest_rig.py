"""A scripted engine on a Unix socket, and a REST client that asks it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from flashpods.adapters.podman.rest import RestClient

Handler = Callable[[str, str, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Answers with ``handler(method, target, writer)``; counts connections and requests."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.handler: Handler = ok
        self.connections = 0
        self.requests: list[tuple[str, str, bytes]] = []
        self.came = asyncio.Event()
        self.closed = asyncio.Event()

    async def silence(self, _method: str, _target: str, _writer: asyncio.StreamWriter) -> None:
        """Answer nothing, as a handler.

        What waits for an event that nobody else holds is garbage, and may be collected as such.
        """
        await self.closed.wait()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                method, target, _ = head.split(" ", 2)
                length = int(head.lower().split("content-length:")[1].split("\r\n")[0])
                self.requests.append((method, target, await reader.readexactly(length)))
                self.came.set()
                await self.handler(method, target, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def answer(body: bytes, status: str = "200 OK", extra: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{extra}\r\n".encode() + body


async def ok(method: str, target: str, writer: asyncio.StreamWriter) -> None:
    writer.write(answer(b'{"ok": true}'))


@asynccontextmanager
async def serving(socket: Path) -> AsyncIterator[Server]:
    """Listen there."""
    server = Server(socket)
    listener = await asyncio.start_unix_server(server.serve, socket)
    yield server
    listener.close()
    server.closed.set()


@asynccontextmanager
async def asking(server: Server) -> AsyncIterator[RestClient]:
    """Give a client with room for two calls and two waits."""
    client = RestClient(server.socket, call_seconds=60, calls=2, waits=2)
    yield client
    await client.close()
