"""The real ``flashpods-mcp`` beside a stack, driven by the protocol's official client."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcp import Client, StdioServerParameters
from mcp.client import ClientExtension
from mcp_types import CallToolResult, TextContent

from flashpods_dev.stack import MiniStack

PROGRAM = Path(sys.executable).with_name("flashpods-mcp")
NOBODY = "0123456789abcdef"  # the id of no job


def environment(
    api_url: str, rsync_url: str, token: str, home: Path, *, attempts: int = 5, **more: str
) -> dict[str, str]:
    """Return the environment of a laptop whose host is that stack, with quick retries."""
    config = home / "config.json"
    delays = {"retry_base_delay_ms": 50, "retry_max_delay_ms": 200}
    config.write_text(json.dumps({**delays, "retry_max_attempts": attempts}))
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "FLASHPODS_CONFIG": str(config),
        "FLASHPODS_API_URL": api_url,
        "FLASHPODS_RSYNC_URL": rsync_url,
        "FLASHPODS_API_TOKEN": token,
        **more,
    }


def environment_of(stack: MiniStack, home: Path, *, attempts: int = 5) -> dict[str, str]:
    """Return the environment of a laptop whose host is that stack itself, with its token."""
    token = stack.layout.token.read_text().strip()
    return environment(stack.api_url, stack.info.rsync_url, token, home, attempts=attempts)


@asynccontextmanager
async def connected(
    env: Mapping[str, str],
    cwd: Path,
    *,
    mode: str = "auto",
    extensions: list[ClientExtension] | None = None,
) -> AsyncIterator[Client]:
    """Start a server and connect the client to it.

    The client lives in a task of its own: what anyio opens in one task it can't close in another,
    and a fixture is set up and torn down in two.
    """
    server = StdioServerParameters(command=str(PROGRAM), env=dict(env), cwd=cwd)
    there: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
    leave = asyncio.Event()

    async def hold() -> None:
        async with Client(server, mode=mode, extensions=extensions) as client:
            there.set_result(client)
            await leave.wait()

    holding = asyncio.create_task(hold())
    either: set[asyncio.Future[Any]] = {holding, there}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    try:
        if holding.done():
            await holding
        yield there.result()
    finally:
        leave.set()
        await holding


@dataclass(slots=True)
class Seen:
    """The progress that a call reported."""

    values: list[float] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    first: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, progress: float, total: float | None, message: str | None) -> None:
        self.values.append(progress)
        self.messages.append(message or "")
        self.first.set()


def structured(result: CallToolResult) -> dict[str, Any]:
    """Return a success's structured content."""
    assert not result.is_error, result.content
    content = result.structured_content
    assert isinstance(content, dict)
    return content


def text_of(result: CallToolResult) -> str:
    """Return what the model reads."""
    (block,) = result.content
    assert isinstance(block, TextContent)
    return block.text


def refused(result: CallToolResult, code: str) -> dict[str, Any]:
    """Check that it is a failure with that code and a message; return it."""
    assert result.is_error, result.structured_content
    answer: dict[str, Any] = json.loads(text_of(result))
    assert answer["error"] == code, answer
    assert answer["message"]
    assert set(answer) <= {"error", "message", "details"}
    return answer


async def call(client: Client, name: str, **arguments: Any) -> dict[str, Any]:
    """Call a tool that is to succeed."""
    return structured(await client.call_tool(name, arguments))


async def finished(client: Client, job_id: str) -> dict[str, Any]:
    """Wait for a job's end through the tool, twice if it must be."""
    for _ in range(2):
        answer = await call(client, "wait_for_job", job_id=job_id, timeout_seconds=90)
        if answer["finished"]:
            break
    assert answer["finished"], answer
    return answer


Verdict = Callable[[str, int], str | None]


class StormyProxy:
    """Stands before the API; ``judge(request line, n)`` says what becomes of the n-th such request.

    None passes it on; "503" and "429" answer so; "lose" passes it on and drops the answer, "half"
    cuts it off in the middle.
    """

    def __init__(self, target: str, judge: Verdict) -> None:
        """Know where to go."""
        self._host, _, port = target.removeprefix("http://").partition(":")
        self._target_port = int(port)
        self._judge = judge
        self._server: asyncio.Server | None = None
        self.seen: dict[str, int] = {}

    async def __aenter__(self) -> StormyProxy:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        """Where it listens."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                head = await reader.readuntil(b"\r\n\r\n")
                await self._answer(head, reader, writer)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        line, *headers = head.decode().split("\r\n")
        known = dict(h.lower().split(": ", 1) for h in headers if h)
        body = await reader.readexactly(int(known.get("content-length", 0)))
        what = line.rpartition(" ")[0]
        self.seen[what] = self.seen.get(what, 0) + 1
        fate = self._judge(what, self.seen[what])
        if fate in {"503", "429"}:
            code = "service_unavailable" if fate == "503" else "rate_limited"
            said = json.dumps({"error": code, "message": "a storm", "details": {}}).encode()
            length = f"Content-Length: {len(said)}\r\nConnection: close\r\n\r\n"
            writer.write(
                f"HTTP/1.1 {fate} X\r\nContent-Type: application/json\r\n{length}".encode()
            )
            writer.write(said)
            await writer.drain()
            return
        kept = [h for h in headers if h and not h.lower().startswith("connection:")]
        request = "\r\n".join([line, *kept, "Connection: close", "", ""]).encode() + body
        there, back = await asyncio.open_connection(self._host, self._target_port)
        back.write(request)
        answer = await there.read()
        back.close()
        await back.wait_closed()
        if fate != "lose":
            writer.write(answer[: len(answer) // 2] if fate == "half" else answer)
            await writer.drain()
