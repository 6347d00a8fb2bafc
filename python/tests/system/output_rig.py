"""What the tests of a job's log share: its file, a page of it, and a job that waits at a gate."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import support
from running_api import RunningApi
from support import Connected

from flashpods_dev.stack import MiniStack

LINE = re.compile(r"\[\d\d:\d\d:\d\d\.\d{3}\] ")
MB = 1024**2


# A command with ``gate WORD`` in it, which waits for the test to make /artifacts/WORD.
GATE = "gate() {{ while [ ! -e /artifacts/$1 ]; do sleep 0.02; done; }}; {}"


def log_file(host: Connected | RunningApi, job_id: str) -> Path:
    return host.settings.paths.logs / f"{job_id}.log"


def open_gate(host: Connected | RunningApi, job_id: str, word: str) -> None:
    """Let a job go on that waits in its ``gate``."""
    (host.settings.paths.artifacts / ".staging" / job_id / word).touch()


async def numbered_lines(stack: MiniStack) -> str:
    """Run a job that writes 10 050 numbered lines; return its id."""
    async with support.connect(stack) as host:
        return str((await support.run(host.client, "seq 10050"))["id"])


async def page(client: httpx.AsyncClient, job_id: str, **query: Any) -> dict[str, Any]:
    answer = await client.get(f"/jobs/{job_id}/output", params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found
