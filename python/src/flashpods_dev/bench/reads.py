"""GET /jobs/{id}, beside a bare FastAPI app under the very server settings of the API."""

from __future__ import annotations

import re
import subprocess
import sys

from flashpods_dev.bench.client import Api
from flashpods_dev.bench.report import Result, p50
from flashpods_dev.bench.server import serving
from flashpods_dev.layout import free_port
from flashpods_dev.stack import MiniStack

BARE = """
import asyncio, socket, sys, uvicorn, uvloop
from fastapi import FastAPI
from flashpods.api.main import configure
from flashpods.config import Settings
from flashpods.web.server import BACKLOG
app = FastAPI()
@app.get("/jobs/{job_id}")
async def job(job_id: str):
    return {"id": job_id, "status": "completed"}
sock = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=BACKLOG)
with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(uvicorn.Server(configure(app, Settings())).serve(sockets=[sock]))
"""
SECONDS = 4
_RATE = re.compile(r"Requests/sec:\s+([0-9.]+)")


def measure(stack: MiniStack, rounds: int) -> list[Result]:
    """Load the two in turn with wrk, one server at a time."""
    api = Api(stack)
    job_id = api.run("true")
    api.until(job_id)
    port = free_port()
    ours, theirs = [], []
    with serving([sys.executable, "-c", BARE, str(port)], port):
        for _ in range(rounds):
            ours.append(_wrk(f"{stack.api_url}/jobs/{job_id}", api.token))
            theirs.append(_wrk(f"http://127.0.0.1:{port}/jobs/{job_id}", api.token))
    return [
        Result(
            name="GET /jobs/{id}",
            unit="req/s",
            ours=p50(ours),
            peer_name="bare FastAPI",
            peer=p50(theirs),
            goal=0.6,
            at_most=False,
            note=f"wrk, 16 connections, {SECONDS} s, p50 of {rounds}",
        )
    ]


def _wrk(url: str, token: str) -> float:
    argv = ["wrk", "-t1", "-c16", f"-d{SECONDS}s", "-H", f"Authorization: Bearer {token}", url]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    found = _RATE.search(done.stdout)
    if found is None or "Non-2xx" in done.stdout:
        raise RuntimeError(f"wrk on {url}: {done.stdout}")
    return float(found[1])
