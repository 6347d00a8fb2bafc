"""A scripted host for the command line, and a call of it."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from flashpods.cli.main import app
from flashpods.client.client import FlashpodsClient

LOG = "[10:00:00.000] hello\n[10:00:00.001] \x1b[31mred\x1b[0m\n"
DATA = b"artifact"
JOB: dict[str, Any] = {
    "id": "j1",
    "type": "worker",
    "status": "completed",
    "command": "make\ntest \x1b[2J[bold]",
    "image": "i",
    "cpus": 2,
    "memory_gb": 4,
    "timeout_minutes": 30,
    "created_at": "2025-01-01T10:00:00.000Z",
    "duration_seconds": 1.5,
    "exit_code": 0,
    "error": None,
    "warnings": [],
    "events": [{"from": None, "to": "pending", "at": "2025-01-01T10:00:00.000Z", "why": "posted"}],
}


class Host:
    """Answers every call of the API for one job."""

    def __init__(self) -> None:
        self.job = dict(JOB)
        self.draining = False
        self.artifacts = [
            {
                "name": "out.txt",
                "type": "file",
                "size_bytes": len(DATA),
                "sha256": hashlib.sha256(DATA).hexdigest(),
                "created_at": "2025-01-01T10:00:00.000Z",
            }
        ]
        self.requests: list[tuple[str, str]] = []
        self.bodies: list[Any] = []
        self.deleted = asyncio.Event()
        self.on_follow: Callable[[], None] | None = None
        self.refuse: dict[tuple[str, str], httpx.Response] = {}

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        self.requests.append((request.method, str(request.url.raw_path.decode())))
        if request.content:
            self.bodies.append(json.loads(request.content))
        if (request.method, path) in self.refuse:
            return self.refuse[request.method, path]
        if request.method == "DELETE":
            self.job |= {"status": "cancelled", "exit_code": 143}
            self.deleted.set()
            return httpx.Response(200, json={"job_id": "j1", "status": "cancelled"})
        if request.method == "POST":
            body = {"job_id": "j1", "status": "pending", "created": True, "warnings": ["clamped"]}
            return httpx.Response(201, json=body)
        if path.endswith("/output"):
            return await self.output(request)
        return httpx.Response(200, **self.look(path))

    def look(self, path: str) -> dict[str, Any]:
        if path.endswith("/artifacts"):
            return {"json": {"artifacts": self.artifacts}}
        if "/artifacts/" in path:
            return {"content": DATA}
        if path == "/jobs":
            return {"json": {"jobs": [self.job], "total": 1, "next_cursor": None}}
        if path == "/health":
            return {"json": {"status": "healthy", "draining": self.draining}}
        return {"json": self.job}

    async def output(self, request: httpx.Request) -> httpx.Response:
        if "follow" not in request.url.params:
            body = {"output": LOG, "lines": 2, "truncated": False, "total_bytes": len(LOG)}
            return httpx.Response(200, json=body)
        if self.on_follow is not None:
            self.on_follow()
            await self.deleted.wait()
        data = LOG.removesuffix("\n").replace("\n", "\ndata: ")
        events = f"id: {len(LOG)}\ndata: {data}\n\nevent: end\ndata: {{}}\n\n"
        return httpx.Response(200, content=events.encode())


async def nap(_seconds: float) -> None:
    await asyncio.sleep(0)


def answered_by(handler: Any, patch: pytest.MonkeyPatch) -> None:
    """Have the command's client ask this instead of a network, and retry without a pause."""
    made = functools.partial(FlashpodsClient, transport=httpx.MockTransport(handler), sleep=nap)
    patch.setattr("flashpods.client.client.FlashpodsClient", made)


def at_home(patch: pytest.MonkeyPatch, home: Path) -> Host:
    """Stand in an empty home with a token, before a host that answers."""
    found = Host()
    answered_by(found, patch)
    patch.setenv("FLASHPODS_API_TOKEN", "the-secret-token")
    patch.setenv("FLASHPODS_CONFIG", str(home / "none.json"))
    patch.chdir(home)
    return found


def call(*args: str) -> Any:
    result = CliRunner().invoke(app, list(args))
    assert "the-secret-token" not in result.output
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result
