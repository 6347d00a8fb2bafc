"""The tool that waits."""

from __future__ import annotations

from typing import Annotated, Any

from mcp.server.mcpserver import Context, MCPServer
from pydantic import Field

from flashpods.mcp import waiting
from flashpods.mcp.batches import Batches
from flashpods.mcp.host import Host
from flashpods.mcp.progress import Progress
from flashpods.mcp.schemas import JobId, Waited
from flashpods.mcp.tools.hints import READS

__all__ = ["Seconds", "register"]

WAIT_FOR_JOB = """\
Wait until a job has ended, 95 seconds at most, and show it: status, exit code, the last lines of
its output, its artifacts. If `finished` is false when it returns, the job still runs: call it
again. Cancelling the wait does not end the job. If it failed, go on with search_output."""

Seconds = Annotated[
    float,
    Field(ge=0, le=waiting.LONGEST, description="How long to wait at most, 0 to 95 seconds."),
]


def register(server: MCPServer[Any], host: Host, _batches: Batches) -> None:
    """Add the tool."""

    @server.tool(title="Wait for a job", description=WAIT_FOR_JOB, annotations=READS)
    async def wait_for_job(
        ctx: Context[Any, Any], job_id: JobId, timeout_seconds: Seconds = 90.0
    ) -> Waited:
        client = await host.client()
        job = await waiting.wait(client, job_id, timeout_seconds, Progress.of(ctx))
        return await waiting.show(client, job)
