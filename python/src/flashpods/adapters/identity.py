"""Whether jobs can get their identity: SPIRE's agent and the token service, by their sockets."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from flashpods.errors import Unavailable

SECONDS: Final = 1.5
HEAD_BYTES: Final = 1024


class UnixIdentityChain:
    """The port's :class:`~flashpods.ports.identity.IdentityChain`."""

    def __init__(self, agent: Path, tokens: Path, *, seconds: float = SECONDS) -> None:
        """Connect to nothing yet."""
        self._agent = agent
        self._tokens = tokens
        self._seconds = seconds

    async def ping(self) -> None:
        """Ask both; see the port."""
        await self.ping_agent()
        await self.ping_tokens()

    async def ping_agent(self) -> None:
        """Connect to the agent; see the port."""
        await self._bounded("SPIRE's agent", self._agent, b"")

    async def ping_tokens(self) -> None:
        """Ask the token service how it is; see the port.

        It knows whether it trusts anybody's identity.
        """
        status = await self._bounded(
            "the token service", self._tokens, b"GET /health HTTP/1.0\r\n\r\n"
        )
        if status.split()[1:2] != [b"200"]:
            raise Unavailable(f"the token service is not well: {status[:80]!r}")

    async def _bounded(self, what: str, path: Path, request: bytes) -> bytes:
        """Connect, send the request, return the first line of the answer to it."""
        try:
            async with asyncio.timeout(self._seconds):
                return await _first_line(path, request)
        except TimeoutError:
            raise Unavailable(f"{what} does not answer on {path}") from None
        except OSError as e:
            raise Unavailable(
                f"{what} does not answer on {path}: {e.strerror or type(e).__name__}"
            ) from e


async def _first_line(path: Path, request: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path), limit=HEAD_BYTES)
    try:
        if not request:
            return b""
        writer.write(request)
        await writer.drain()
        return (await reader.read(HEAD_BYTES)).partition(b"\r\n")[0]
    finally:
        writer.close()
