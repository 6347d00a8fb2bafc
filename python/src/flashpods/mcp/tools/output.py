"""Tools that show a job's log: its end, or the lines that matter."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from mcp.server.mcpserver import MCPServer
from pydantic import Field

from flashpods.client.errors import ClientError
from flashpods.mcp import search as searching
from flashpods.mcp.batches import Batches
from flashpods.mcp.host import Host
from flashpods.mcp.schemas import Excerpt, JobId, OutputView, SearchResult
from flashpods.mcp.search import Query, Result
from flashpods.mcp.tools.hints import READS
from flashpods.mcp.waiting import clip

if TYPE_CHECKING:
    from flashpods.client import FlashpodsClient  # loads httpx
    from flashpods.client.models import Output

__all__ = ["register"]

MAX_CHARACTERS: Final = 200_000
STALL_SECONDS: Final = 30.0  # for a piece of the log, which takes a fraction of one
PAGE_BYTES: Final = 1 << 20

GET_JOB_OUTPUT = """\
Show the last lines of a job's log, stdout and stderr together, while it runs or after. For a long
log of a failed job search_output is better: it finds the failure and returns fewer lines."""

SEARCH_OUTPUT = """\
Find lines in a job's whole log and show them with their surroundings: 50 lines to read instead of
10,000. Without a pattern it finds the first failure: compiler errors, failed tests, tracebacks,
panics. A pattern is a regular expression, matched line by line. Use it first when a job failed."""


def register(server: MCPServer[Any], host: Host, _batches: Batches) -> None:
    """Add the tools."""

    @server.tool(title="Show output", description=GET_JOB_OUTPUT, annotations=READS)
    async def get_job_output(
        job_id: JobId,
        tail: Annotated[int, Field(ge=1, le=10_000, description="How many lines.")] = 100,
    ) -> OutputView:
        answer = await (await host.client()).output(job_id, tail)
        text = clip(answer.output, MAX_CHARACTERS)
        return OutputView(
            job_id=job_id,
            output=text,
            lines=text.count("\n") if text != answer.output else answer.lines,
            total_bytes=answer.total_bytes,
            truncated=answer.truncated,
            cut=text != answer.output,
        )

    @server.tool(title="Search output", description=SEARCH_OUTPUT, annotations=READS)
    async def search_output(
        *,
        job_id: JobId,
        pattern: Annotated[
            str | None,
            Field(min_length=1, max_length=1000, description="Regular expression (Python's re)."),
        ] = None,
        ignore_case: bool = False,
        before: Annotated[int, Field(ge=0, le=searching.MAX_CONTEXT)] = 5,
        after: Annotated[int, Field(ge=0, le=searching.MAX_CONTEXT)] = 15,
        max_matches: Annotated[
            int, Field(ge=1, le=50, description="How many are shown; all are counted.")
        ] = 3,
    ) -> SearchResult:
        query = Query(pattern, ignore_case, before, after, max_matches)
        try:
            searching.compile_pattern(query)
        except (re.error, RecursionError, OverflowError) as error:
            raise ClientError(
                "invalid_pattern", f"{pattern!r} is no regular expression: {error}; escape ( [ * +"
            ) from error
        result = await _search(await host.client(), job_id, query)
        return _show(job_id, query, result)


def _show(job_id: str, query: Query, result: Result) -> SearchResult:
    excerpts = [
        Excerpt(first_line=first, last_line=last, text="\n".join(lines))
        for first, last, lines in result.excerpts
    ]
    note = None
    if not result.matches and result.lines:
        first = result.lines - len(result.tail) + 1
        excerpts = [Excerpt(first_line=first, last_line=result.lines, text="\n".join(result.tail))]
        note = "nothing matches; these are the last lines"
    elif not result.matches:
        note = "the log is empty so far"
    elif result.shown < result.matches:
        note = f"{result.matches - result.shown} more match; raise max_matches or narrow pattern"
    return SearchResult(
        job_id=job_id,
        looked_for=query.pattern or "the first failure",
        matches=result.matches,
        shown=result.shown,
        excerpts=excerpts,
        lines_searched=result.lines,
        note=note,
    )


def _command() -> list[str]:
    """Return the command line of the search: this Python, without site and environment."""
    file = str(Path(searching.__file__))
    code = f"import runpy, sys; sys.exit(runpy.run_path({file!r})['main']())"
    return [sys.executable, "-I", "-S", "-c", code]


async def _search(client: FlashpodsClient, job_id: str, query: Query) -> Result:
    """Search the whole log as it is now, in a child process.

    Raises:
        ClientError: ``search_too_slow``, ``search_stalled``, and what the host says of the log.
    """
    first = await client.read_output(job_id, 0, PAGE_BYTES)
    child = await asyncio.create_subprocess_exec(
        *_command(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={},
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        with suppress(ConnectionError):  # it died: its answer will be missing
            child.stdin.write(json.dumps(asdict(query)).encode() + b"\n")
            await _feed(child.stdin, client, job_id, first)
            child.stdin.close()
        async with asyncio.timeout(STALL_SECONDS):
            answer = await child.stdout.read()
            await child.wait()
    except TimeoutError as error:
        raise ClientError(
            "search_stalled",
            f"the search did not get on for {STALL_SECONDS:.0f} s: this machine is busy; try again",
        ) from error
    finally:
        child.stdin.close()
        if child.returncode is None:
            child.kill()
            await child.wait()
        with suppress(ConnectionError):  # asked for, or asyncio logs that nobody did
            await child.stdin.wait_closed()
    return _result(child.returncode, answer)


async def _feed(
    stdin: asyncio.StreamWriter, client: FlashpodsClient, job_id: str, first: Output
) -> None:
    """Write the log from its first page on, as far as it went when that was read."""
    page = first
    while page.output:
        stdin.write(page.output.encode("utf-8", "replace"))
        async with asyncio.timeout(STALL_SECONDS):
            await stdin.drain()
        if page.next_offset is None or page.next_offset >= first.total_bytes:
            return
        page = await client.read_output(job_id, page.next_offset, PAGE_BYTES)


def _result(returncode: int | None, answer: bytes) -> Result:
    if returncode == -signal.SIGXCPU:
        raise ClientError(
            "search_too_slow",
            f"the pattern used {searching.CPU_SECONDS} s of CPU time for a piece of the log; use a "
            "simpler one, without nested repetition",
        )
    if returncode or not answer:
        raise ClientError("search_failed", "the search ended without an answer; try again")
    return Result(**json.loads(answer))
