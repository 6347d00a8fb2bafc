"""Waiting for a job's end without ever being its owner, and showing what came of it."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from flashpods.client.errors import ClientError, HostUnreachable
from flashpods.client.models import Job
from flashpods.mcp.progress import Progress
from flashpods.mcp.schemas import JobView, Waited

if TYPE_CHECKING:
    from flashpods.client import FlashpodsClient  # loads httpx

__all__ = ["LONGEST", "passing", "show", "tail_of", "wait"]

LONGEST: Final = 95.0  # seconds: clients put a call in the background after 120
SLICE: Final = 5.0  # between two reports of progress
TAIL_LINES: Final = 30
TAIL_CHARACTERS: Final = 6000
PAUSE: Final = 1.0
GRACE: Final = 3.0  # for the last answer, beyond the time asked for
_STAMP: Final = re.compile(r"^\[\d\d:\d\d:\d\d\.\d{3}\] ")


def passing(error: ClientError) -> bool:
    """Whether a failure says nothing of the job: the host is away, busy or being restarted."""
    return isinstance(error, HostUnreachable) or error.status in {429, 502, 503, 504}


async def wait(
    client: FlashpodsClient, job_id: str, seconds: float, progress: Progress | None = None
) -> Job:
    """Return the job once it has ended, or as it is after ``seconds``.

    A host that goes away meanwhile is waited for, to the same end. The job is never touched.

    Raises:
        ClientError: the host refused, or at the end was still away.
    """
    clock = asyncio.get_running_loop().time
    end = clock() + seconds
    job: Job | None = None
    while True:
        left = end - clock()
        try:
            job = await _look(client, job_id, job, left)
        except ClientError as error:
            if not passing(error) or left <= 0:
                raise
            if progress is not None:
                await progress.tell(f"the host does not answer ({error.code}); waiting", seconds)
            await asyncio.sleep(min(PAUSE, max(left, 0.0)))
            continue
        if job.terminal or end - clock() <= 0:
            return job
        if progress is not None:
            await progress.tell(_describe(job), seconds)


async def _look(client: FlashpodsClient, job_id: str, known: Job | None, left: float) -> Job:
    """Look at once the first time, then wait for a change for a slice of the time left.

    The client's own retries may take longer than what is left, so they are cut short.
    """
    bound = asyncio.timeout(max(left, 0.0) + GRACE)
    try:
        async with bound:
            return await _ask(client, job_id, known, left)
    except TimeoutError as error:
        if not bound.expired():
            raise
        raise HostUnreachable("the host did not answer in time") from error


async def _ask(client: FlashpodsClient, job_id: str, known: Job | None, left: float) -> Job:
    if known is None or left < 1:
        return await client.get_job(job_id)
    clock = asyncio.get_running_loop().time
    began = clock()
    job = await client.get_job(job_id, wait=max(1.0, min(SLICE, left)), since=known)
    if clock() - began < 0.2 and (job.status, job.phase) == (known.status, known.phase):
        await asyncio.sleep(min(PAUSE, left))  # a host that does not wait is not hammered
    return job


def _describe(job: Job) -> str:
    phase = f" ({job.phase})" if job.phase else ""
    since = f" for {job.elapsed_seconds:.0f} s" if job.elapsed_seconds else ""
    return f"job {job.id} {job.status}{phase}{since}"


def clip(text: str, most: int = TAIL_CHARACTERS) -> str:
    """Return the end of a text, from the beginning of a line."""
    if len(text) <= most:
        return text
    return text[-most:].partition("\n")[2] or text[-most:]


async def tail_of(client: FlashpodsClient, job_id: str) -> str | None:
    """Return the last lines without their times; None if there is no log (any more)."""
    with suppress(ClientError):
        output = await client.output(job_id, tail=TAIL_LINES)
        return clip("\n".join(_STAMP.sub("", line) for line in output.output.splitlines()))
    return None


async def show(client: FlashpodsClient, job: Job) -> Waited:
    """Show a job after a wait, with its last lines and artifacts if it has ended."""
    fields = JobView.fields_of(job)
    if not job.terminal:
        return Waited(
            **fields, next="not finished: call wait_for_job again, or do other work meanwhile"
        )
    names: list[str] | None = None
    with suppress(ClientError):
        names = [artifact.name for artifact in await client.artifacts(job.id)]
    hint = "done" if job.status == "completed" else "search_output shows where it went wrong"
    if names:
        hint += "; download_artifact fetches what it left, within an hour"
    return Waited(**fields, output_tail=await tail_of(client, job.id), artifacts=names, next=hint)
