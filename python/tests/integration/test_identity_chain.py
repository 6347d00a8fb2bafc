"""Whether jobs can get their identity, asked over real sockets."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from flashpods.adapters.identity import UnixIdentityChain
from flashpods.errors import Unavailable


class Host:
    """Two sockets that answer as they are told; ``None``: nobody listens."""

    def __init__(self, directory: Path, stack: AsyncExitStack) -> None:
        self.agent, self.tokens = directory / "agent.sock", directory / "token.sock"
        self._stack = stack
        self.asked: list[bytes] = []

    async def listen(self, path: Path, answer: bytes | None) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._stack.callback(writer.close)
            if path == self.tokens:
                self.asked.append(await reader.readuntil(b"\r\n\r\n"))
            if answer is not None:
                writer.write(answer)
                writer.close()

        server = await asyncio.start_unix_server(serve, str(path))
        self._stack.callback(server.close)

    def chain(self, seconds: float = 60) -> UnixIdentityChain:
        return UnixIdentityChain(self.agent, self.tokens, seconds=seconds)


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    with tempfile.TemporaryDirectory(prefix="fp-") as directory:  # short: a socket's path is
        async with AsyncExitStack() as stack:
            yield Host(Path(directory), stack)


async def test_well(host: Host) -> None:
    await host.listen(host.agent, b"")
    await host.listen(host.tokens, b"HTTP/1.1 200 OK\r\n\r\n{}")
    await host.chain().ping()
    assert host.asked == [b"GET /health HTTP/1.0\r\n\r\n"]


async def test_each_part_is_named(host: Host) -> None:
    with pytest.raises(Unavailable, match="SPIRE's agent does not answer"):
        await host.chain().ping()
    await host.listen(host.agent, b"")
    with pytest.raises(Unavailable, match="the token service does not answer"):
        await host.chain().ping()
    assert host.asked == []


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 503 Service Unavailable\r\n\r\n", b"200", b"", b"\0" * 9999]
)
async def test_an_answer_that_is_not_well(host: Host, answer: bytes) -> None:
    await host.listen(host.agent, b"")
    await host.listen(host.tokens, answer)
    with pytest.raises(Unavailable, match="is not well"):
        await host.chain().ping()


async def test_a_silent_service_has_a_deadline(host: Host) -> None:
    await host.listen(host.agent, b"")
    await host.listen(host.tokens, None)
    async with asyncio.timeout(30):
        with pytest.raises(Unavailable, match="does not answer"):
            await host.chain(0.3).ping()
