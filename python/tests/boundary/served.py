"""The real stack on the lab's host, under the rules: the laptop's client, what a job tries."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from netlab import HERE, RESOLVER, Lab, resolv_conf

from flashpods_dev.stack import MiniStack

API = "http://10.0.0.1:8080"
API_PORT = 8080
JOB_SECONDS = 120
# The API is where a host has it, and all CPUs are there that the tests ask for.
OVERRIDES: dict[str, Any] = {
    "http": {"host": "0.0.0.0", "rate_per_second": 1e6, "rate_burst": 10**6},
    "development": {"pretend_cpus": 32, "pretend_memory_gb": 64},
}


@dataclass(frozen=True, slots=True)
class Served:
    """A host whose port 8080 is its API's, with the rules loaded."""

    lab: Lab
    stack: MiniStack

    @asynccontextmanager
    async def laptop(self) -> AsyncIterator[httpx.AsyncClient]:
        """Give a client on the laptop, where this thread is meanwhile."""
        headers = {"Authorization": f"Bearer {self.stack.layout.token.read_text().strip()}"}
        with self.lab.laptop.entered():
            async with httpx.AsyncClient(
                base_url=API,
                headers=headers,
                transport=httpx.AsyncHTTPTransport(),
                trust_env=False,
                timeout=60,
            ) as client:
                yield client


@contextmanager
def serve(make: Callable[[Lab, Path], AbstractContextManager[MiniStack]]) -> Iterator[Served]:
    """Run a stack in the network of a host.

    Args:
        make: gives the stack, not yet started, from the network and a directory for its state.
    """
    with ExitStack() as cleanup:
        lab = Lab(cleanup, services=(873,))
        scratch = Path(tempfile.mkdtemp(prefix="b-", dir=os.environ["FLASHPODS_TEST_TMP"]))
        scratch.chmod(0o755)
        cleanup.enter_context(resolv_conf(f"nameserver {RESOLVER}\n", scratch))
        with lab.host.entered():
            stack = cleanup.enter_context(make(lab, scratch / "s"))
        lab.load()
        yield Served(lab, stack)


async def run(
    client: httpx.AsyncClient, command: str, *, seconds: float = JOB_SECONDS, **fields: Any
) -> tuple[str, list[str]]:
    """Run a worker; return its state and its output."""
    body = {"type": "worker", "command": command, "cpus": 1, "memory_gb": 1, **fields}
    made = await client.post("/jobs", json=body)
    assert made.status_code == 201, made.text
    job = made.json()["job_id"]
    async with asyncio.timeout(seconds):
        while True:
            row = (await client.get(f"/jobs/{job}", params={"wait": 5})).json()
            if row["completed_at"]:
                break
    said = (await client.get(f"/jobs/{job}/output")).json()["output"]
    return row["status"], [line.partition("] ")[2] for line in said.splitlines()]


def probing(*cells: tuple[str, str, int], seconds: float = 3) -> str:
    """Return a job's command that tries cells and prints what they came to."""
    task = json.dumps({"seconds": seconds, "cells": cells})
    script = (HERE / "probe.py").read_text()
    return f"printf '%s\\n' {shlex.quote(task)} | python3 -c {shlex.quote(script)}"


def scanning(first: int, last: int, *addresses: str) -> str:
    """Return a job's command that tries all these TCP ports and prints which are open."""
    script = (HERE / "scan.py").read_text()
    return f"python3 -c {shlex.quote(script)} {first} {last} {' '.join(addresses)}"


async def total(client: httpx.AsyncClient) -> int:
    """Return how many jobs there are."""
    listed: dict[str, Any] = (await client.get("/jobs")).json()
    return int(listed["total"])
