"""Jobs that are posted while a disk fails, and the proof that all is well once it does not."""

from __future__ import annotations

import asyncio
import time

from faultboard import Score
from rig import Rig


async def post_some(rig: Rig, count: int) -> list[int]:
    """POST small jobs one after the other and return the statuses; the accepted are remembered."""
    statuses = []
    for _ in range(count):
        body = {"type": "worker", "command": "true", "cpus": 1, "memory_gb": 1}
        answer = await rig.ask("POST", "/jobs", json=body)
        assert answer is not None, f"the API died: {rig.stack.api.tail()}"
        statuses.append(answer.status_code)
        if answer.status_code == 201:
            rig.jobs.add(answer.json()["job_id"])
    return statuses


async def healed(rig: Rig, score: Score, *, ended: bool = True) -> None:
    """Once the fault is gone: a job runs through, within the contract's time all is in order."""
    begun = time.monotonic()
    answer = None
    while answer is None and time.monotonic() - begun < rig.slack(10):
        answer = await rig.count()
        await asyncio.sleep(0.05)
    job_id = await rig.must(answer)
    assert (await rig.ended(job_id))["status"] == "completed"
    took = await rig.recovered(begun) if ended else time.monotonic() - begun
    score.judge(await rig.verdict(took), took, rig)
