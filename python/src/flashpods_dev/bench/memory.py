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
EVENTS = 5  # of each stream before it counts as open
OPEN_SECONDS = 120
HELD_SECONDS = 5
# One process a job and little work in it: the jobs must not starve the API of CPU.
COMMAND = """exec python3 -uSc '
import time
for i in range(3600):
    print("line", i)
    time.sleep(0.5)
'"""


def measure(stack: MiniStack) -> list[Result]:
    """Start the jobs, follow all at once, and read the peak while every stream is open."""
    api = Api(stack)
    ids = [api.run(COMMAND) for _ in range(JOBS)]
    for job_id in ids:
        if (job := api.until(job_id, "running"))["status"] != "running":
            raise RuntimeError(f"a job ended early: {job}")
    try:
        peak = asyncio.run(_follow_all(stack.api_url, api.token, ids, stack.api.pid))
    finally:
        for job_id in ids:
            api.call("DELETE", f"/jobs/{job_id}")
        for job_id in ids:
            api.until(job_id)
    return [
        Result(
            name="API memory, 100 jobs and 100 followers",
            unit="MB",
            ours=peak / 1024,
            peer_name="the goal",
            peer=GOAL_MB,
            goal=1.0,
            at_most=True,
            note=f"peak resident set (VmHWM), all streams open together for {HELD_SECONDS} s",
        )
    ]


def _peak_kb(pid: int) -> int:
    """Return the peak resident set, proc_pid_status(5), in KiB."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    if found is None:
        raise RuntimeError("no VmHWM in /proc")
    return int(found[1])


async def _follow_all(url: str, token: str, ids: list[str], pid: int) -> int:
    """Hold one event stream a job, all at once; return the API's peak at the end, in KiB.

    Raises:
        RuntimeError: a stream ended while the others were held.
    """
    headers = {"Authorization": f"Bearer {token}"}
    limits = httpx.Limits(max_connections=None)
    all_open = asyncio.Barrier(len(ids) + 1)
    let_go = asyncio.Event()
    async with (
        httpx.AsyncClient(base_url=url, headers=headers, limits=limits, timeout=60) as http,
        asyncio.TaskGroup() as group,
    ):
        for job_id in ids:
            group.create_task(_follow(http, job_id, all_open, let_go))
        async with asyncio.timeout(OPEN_SECONDS):
            await all_open.wait()
        await asyncio.sleep(HELD_SECONDS)
        peak = _peak_kb(pid)
        let_go.set()
    return peak


async def _follow(
    http: httpx.AsyncClient, job_id: str, all_open: asyncio.Barrier, let_go: asyncio.Event
) -> None:
    """Read on until told to let go; the barrier is passed once a few events have come."""
    seen = 0
    async with http.stream("GET", f"/jobs/{job_id}/output?follow=true") as answer:
        answer.raise_for_status()
        waiting: asyncio.Task[int] | None = None
        async for line in answer.aiter_lines():
            seen += line.startswith("data:")
            if seen >= EVENTS and waiting is None:
                waiting = asyncio.create_task(all_open.wait())
            if let_go.is_set():
                return
    raise RuntimeError(f"the stream of {job_id} ended after {seen} events")
