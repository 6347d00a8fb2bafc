"""The real stack on the lab's host: the laptop's jobs run, and a job gets nothing back."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import judge
import pytest
from netlab import HERE, HOST4, OTHERS, PORTS, RESOLVER, WEB4, Lab, resolv_conf

from flashpods_dev.machine import inside
from flashpods_dev.stack import MiniStack

pytestmark = pytest.mark.timeout(180)
API = "http://10.0.0.1:8080"
JOB_SECONDS = 60


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Lab, MiniStack]]:
    """The stack, in the network of a host whose port 8080 is its API's."""
    with ExitStack() as stack:
        lab = Lab(stack, services=(873,))
        scratch = Path(tempfile.mkdtemp(prefix="b-", dir=os.environ["FLASHPODS_TEST_TMP"]))
        scratch.chmod(0o755)
        stack.enter_context(resolv_conf(f"nameserver {RESOLVER}\n", scratch))
        overrides = {
            "http": {"host": "0.0.0.0", "rate_per_second": 1e6, "rate_burst": 10**6},
            "development": {"pretend_cpus": 32, "pretend_memory_gb": 64},
        }
        with lab.host.entered():
            running = MiniStack(
                scratch / "s", inside(), overrides=overrides, port=8080, parts=("podman", "api")
            )
            stack.callback(running.stop)
            running.start()
        lab.load()
        yield lab, running


@pytest.fixture
async def laptop(served: tuple[Lab, MiniStack]) -> AsyncIterator[httpx.AsyncClient]:
    """A client on the laptop."""
    lab, stack = served
    headers = {"Authorization": f"Bearer {stack.layout.token.read_text().strip()}"}
    transport = httpx.AsyncHTTPTransport()
    with lab.laptop.entered():  # for as long as the test runs, in this thread
        async with httpx.AsyncClient(
            base_url=API, headers=headers, transport=transport, trust_env=False, timeout=60
        ) as client:
            yield client


async def run(client: httpx.AsyncClient, command: str) -> tuple[str, list[str]]:
    """Run a job; return its state and its output."""
    body = {"type": "worker", "command": command, "cpus": 1, "memory_gb": 1}
    made = await client.post("/jobs", json=body)
    assert made.status_code == 201, made.text
    job = made.json()["job_id"]
    async with asyncio.timeout(JOB_SECONDS):
        while True:
            row = (await client.get(f"/jobs/{job}", params={"wait": 5})).json()
            if row["completed_at"]:
                break
    said = (await client.get(f"/jobs/{job}/output")).json()["output"]
    return row["status"], [line.partition("] ")[2] for line in said.splitlines()]


def probing(*cells: tuple[str, str, int]) -> str:
    """Return a job's command that tries cells and prints what they came to."""
    task = json.dumps({"seconds": 3, "cells": cells})
    script = (HERE / "probe.py").read_text()
    return f"printf '%s\\n' {shlex.quote(task)} | python3 -c {shlex.quote(script)}"


async def test_the_laptop_is_served(
    served: tuple[Lab, MiniStack], laptop: httpx.AsyncClient
) -> None:
    assert "checks" in (await laptop.get("/health")).json()  # degraded counts: a full disk, say
    status, lines = await run(laptop, "echo hello")
    assert (status, lines) == ("completed", ["hello"])


def test_root_is_served(served: tuple[Lab, MiniStack]) -> None:
    lab, _ = served
    for address in ("10.0.0.1", "127.0.0.1", HOST4):
        assert '"checks"' in lab.host.run("curl", "-s", f"http://{address}:8080/health")


async def test_a_job_reaches_the_internet_by_name(
    served: tuple[Lab, MiniStack], laptop: httpx.AsyncClient
) -> None:
    status, lines = await run(laptop, probing(("tcp", "some.example", 443), ("tcp", WEB4, 80)))
    assert status == "completed"
    assert json.loads(lines[-1]) == ["internet", "internet"]


async def test_a_job_reaches_nothing_of_the_host(
    served: tuple[Lab, MiniStack], laptop: httpx.AsyncClient
) -> None:
    lab, _ = served
    addresses = ("10.0.0.1", HOST4, "10.88.0.1", "host.containers.internal")
    cells = [("tcp", address, port) for address in addresses for port in PORTS]
    with lab.counted() as grown:
        status, lines = await run(laptop, probing(*cells))
    assert status == "completed"
    judge.expect_nobody(cells, json.loads(lines[-1]))
    assert grown["job_to_service"] == 2 * len(addresses)
    assert grown["job_to_host"] == len(OTHERS) * len(addresses)


STOLEN = """
import json, urllib.request
body = json.dumps({"type": "worker", "command": "echo spawned", "cpus": 1, "memory_gb": 1}).encode()
for host in HOSTS:
    request = urllib.request.Request(
        f"http://{host}:8080/jobs", body,
        {"Authorization": "Bearer TOKEN", "Content-Type": "application/json"})
    try:
        print(host, urllib.request.urlopen(request, timeout=5).status)
    except OSError as e:
        print(host, getattr(e, "reason", e))
"""


async def test_a_stolen_token_spawns_nothing(
    served: tuple[Lab, MiniStack], laptop: httpx.AsyncClient
) -> None:
    lab, _ = served
    hosts = ["10.0.0.1", HOST4, "198.51.100.11", "10.88.0.1", "host.containers.internal"]
    script = STOLEN.replace("HOSTS", repr(hosts)).replace(
        "TOKEN", laptop.headers["Authorization"].removeprefix("Bearer ")
    )
    command = f"python3 -c {shlex.quote(script)}"
    lab.unload()
    try:
        before = await total(laptop)
        _, lines = await run(laptop, command)
        assert [line.split()[1] for line in lines] == ["201"] * len(hosts)
        assert await total(laptop) == before + 1 + len(hosts)
    finally:
        lab.load()
    before = await total(laptop)
    with lab.counted() as grown:
        status, lines = await run(laptop, command)
    assert status == "completed"
    assert all("refused" in line for line in lines), lines
    assert await total(laptop) == before + 1
    assert grown == {"job_to_service": len(hosts)}


async def total(client: httpx.AsyncClient) -> int:
    """Return how many jobs there are."""
    listed: dict[str, Any] = (await client.get("/jobs")).json()
    return int(listed["total"])
