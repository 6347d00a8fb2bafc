"""``flashpods wait``: until jobs have ended."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from flashpods.cli.run import exit_code
from flashpods.cli.session import EXIT_STILL_RUNNING, Ui
from flashpods.cli.terminal import plain
from flashpods.client.client import FlashpodsClient
from flashpods.client.models import Job

__all__ = ["wait_for_jobs"]


async def wait_for_jobs(
    client: FlashpodsClient,
    ui: Ui,
    job_ids: Sequence[str],
    *,
    timeout: float | None,
    any_job: bool,
) -> int:
    """Wait for all of the jobs, or for the first of them; print them; return the exit code."""
    wanted = list(dict.fromkeys(job_ids))
    tasks = {asyncio.ensure_future(client.wait(job_id, timeout)): job_id for job_id in wanted}
    when = asyncio.FIRST_COMPLETED if any_job else asyncio.FIRST_EXCEPTION
    try:
        done, _ = await asyncio.wait(tasks, return_when=when)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:  # an unknown job among them is an error, whatever the others do
        task.result()
    ended = {tasks[task]: task.result() for task in done}
    jobs = [ended[job_id] for job_id in wanted if job_id in ended]
    if ui.as_json:
        ui.emit({"jobs": [job.raw for job in jobs]})
    else:
        for job in jobs:
            how = f", exit code {job.exit_code}" if job.exit_code is not None else ""
            why = f", {job.error}" if job.error else ""
            ui.note(plain(f"job {job.id} {job.status}{how}{why}"))
    return _code(jobs)


def _code(jobs: Sequence[Job]) -> int:
    if any(not job.terminal for job in jobs):
        return EXIT_STILL_RUNNING
    return next((code for job in jobs if (code := exit_code(job))), 0)
