"""What the attacks share: raw requests, a bystander whose waiting is measured, a stranger's log."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from support import SECONDS, Connected

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Answer:
    """A raw answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> str:
        """Its code."""
        return str(json.loads(self.body)["error"])


def token_of(host: Connected) -> str:
    return host.client.headers["Authorization"].removeprefix("Bearer ")


async def raw(
    port: int, request: bytes, *, source: str = "127.0.0.1", seconds: float = SECONDS
) -> Answer | None:
    """Send bytes and read one answer; None when the connection closed without one."""
    async with asyncio.timeout(seconds):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, local_addr=(source, 0), limit=2**20
        )
        try:
            with contextlib.suppress(ConnectionError):
                writer.write(request)
                await writer.drain()
            return await read_answer(reader)
        finally:
            writer.close()


async def read_answer(reader: asyncio.StreamReader) -> Answer | None:
    """Read one answer with a length."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    first, *lines = head.decode("latin-1").rstrip().split("\r\n")
    headers = {k.lower(): v.strip() for k, v in (line.split(":", 1) for line in lines)}
    length = int(headers.get("content-length", 0))
    body = await reader.readexactly(length) if length else b""
    return Answer(int(first.split(" ")[1]), headers, body)


def get(path: str, token: str, *more: str) -> bytes:
    """Return a GET as bytes; ``path`` goes out as it is."""
    lines = [f"GET {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {token}", *more, "", ""]
    return "\r\n".join(lines).encode("latin-1")


@dataclass(slots=True)
class Bystander:
    """What another client saw meanwhile; seconds."""

    p50: float = 0.0
    p99: float = 0.0
    worst: float = 0.0
    calls: int = 0
    errors: int = 0


@contextlib.asynccontextmanager
async def bystander(host: Connected, path: str = "/jobs?limit=20") -> AsyncIterator[Bystander]:
    """Read with a process of its own, 50 times a second, while the block runs."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(HERE / "bystander.py"), str(host.stack.port), path),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(token_of(host).encode() + b"\n")  # not an argument: others see those
    await process.stdin.drain()
    await process.stdout.readline()  # it has had its first answer
    seen = Bystander()
    try:
        yield seen
    finally:
        process.stdin.close()
        async with asyncio.timeout(SECONDS):
            out = await process.stdout.read()
            await process.wait()
    for key, value in json.loads(out).items():
        setattr(seen, key, value)


def memory_mb(pid: int) -> float:
    """Return a process's resident memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def open_files(pid: int) -> int:
    """Return how many descriptors a process holds."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def connect_idle(port: int, count: int) -> list[socket.socket]:
    """Open connections that say nothing; fewer if the machine or the host refuses more."""
    opened = []
    for number in range(count):
        sock = socket.socket()
        sock.settimeout(60)
        try:
            sock.bind((f"127.0.1.{1 + number % 200}", 0))
            sock.connect(("127.0.0.1", port))
        except OSError:
            sock.close()
            break
        opened.append(sock)
    return opened
