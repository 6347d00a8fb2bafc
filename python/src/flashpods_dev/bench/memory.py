"""The API's resident memory with 100 running jobs, each followed by a client."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import httpx

from flashpods_dev.bench.client import Api
from flashpods_dev.bench.report import Result
from flashpods_dev.stack import MiniStack

JOBS = 100
GOAL_MB = 250
# One process a job and little work in it: the jobs must not starve the API of CPU.
COMMAND = """exec python3 -uSc '
import time
for i in range(3600):
    print("line", i)
    time.sleep(0.5)
'"""


def measure(stack: MiniStack) -> list[Result]:
    """Start the jobs, follow each, and read VmRSS once every follower has had output."""
    api = Api(stack)
    ids = [api.run(COMMAND) for _ in range(JOBS)]
    for job_id in ids:
        if (job := api.until(job_id, "running"))["status"] != "running":
            raise RuntimeError(f"a job ended early: {job}")
    try:
        asyncio.run(_follow_all(stack.api_url, api.token, ids))
        status = Path(f"/proc/{stack.api.pid}/status").read_text()
    finally:
        for job_id in ids:
            api.call("DELETE", f"/jobs/{job_id}")
        for job_id in ids:
            api.until(job_id)
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    if found is None:
        raise RuntimeError("no VmHWM in /proc")
    return [
        Result(
            name="API memory, 100 jobs and 100 followers",
            unit="MB",
            ours=int(found[1]) / 1024,
            peer_name="the goal",
            peer=GOAL_MB,
            goal=1.0,
            at_most=True,
            note="peak resident set (VmHWM)",
        )
    ]


async def _follow_all(url: str, token: str, ids: list[str]) -> None:
    """Hold one event stream a job until each has delivered a few batches."""
    headers = {"Authorization": f"Bearer {token}"}
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, headers=headers, limits=limits, timeout=60) as http:
        async with asyncio.timeout(120):
            await asyncio.gather(*(_follow(http, job_id) for job_id in ids))


async def _follow(http: httpx.AsyncClient, job_id: str) -> None:
    path = f"/jobs/{job_id}/output?follow=true"
    async with http.stream("GET", path) as answer:
        answer.raise_for_status()
        seen = 0
        async for line in answer.aiter_lines():
            seen += line.startswith("data:")
            if seen >= 5:
                return
