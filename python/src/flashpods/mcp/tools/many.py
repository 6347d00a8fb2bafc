"""Tools for many jobs at once."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from mcp.server.mcpserver import Context, MCPServer
from pydantic import Field

from flashpods.mcp import matrix as matrices
from flashpods.mcp.batches import Batches, Plan
from flashpods.mcp.host import Host
from flashpods.mcp.progress import Progress
from flashpods.mcp.schemas import Cpus, Files, ManyResult, MemoryGb, TimeoutMinutes
from flashpods.mcp.tools.hints import READS, SPAWNS
from flashpods.mcp.tools.wait import Seconds
from flashpods.mcp.trees import Trees

__all__ = ["register"]

SPAWN_MANY = """\
Run many commands at once on the same files: a test suite in parts, a matrix of versions, several
experiments. The files are pushed once. Every combination of commands, images and matrix variables
is a job; those that the host has no room for are queued here and started as room comes.

It waits for the end of all, or with until=first_failure for the first that fails, at most 95
seconds, and returns one summary. If `finished` is false call wait_for_many with the batch_id."""

WAIT_FOR_MANY = """\
Go on waiting for a batch of spawn_many, 95 seconds at most, and show its summary. Cancelling the
wait changes nothing of the batch. A batch lives as long as this server; its jobs live on."""


Commands = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=10_000)]],
    Field(min_length=1, max_length=100, description="Shell command lines, a job each."),
]
Tree = Annotated[Files | None, Field(description="Directory to push, once for all jobs.")]
Images = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=255)]] | None,
    Field(max_length=100, description="Run each command in each of these images."),
]
Matrix = Annotated[
    dict[str, list[str]] | None,
    Field(
        max_length=20,
        description="Environment variables with the values to combine, such as "
        '{"FEATURES": ["a", "b"], "SHARD": ["1", "2"]} for four jobs a command.',
    ),
]
Until = Annotated[
    Literal["all", "first_failure"],
    Field(description="first_failure: stop starting and waiting when one has failed."),
]
KillRest = Annotated[bool, Field(description="With first_failure: also kill those that still run.")]
QueueMinutes = Annotated[
    int, Field(ge=0, le=240, description="How long to wait for room on the host.")
]
BatchId = Annotated[str, Field(min_length=1, max_length=64)]


def register(server: MCPServer[Any], host: Host, batches: Batches) -> None:
    """Add the tools."""
    _spawn_many(server, host, batches)

    @server.tool(title="Wait for a batch", description=WAIT_FOR_MANY, annotations=READS)
    async def wait_for_many(
        ctx: Context[Any, Any], batch_id: BatchId, timeout_seconds: Seconds = 90.0
    ) -> ManyResult:
        batch = batches.get(batch_id)
        await batch.wait(timeout_seconds, Progress.of(ctx).tell)
        return batch.result()


def _spawn_many(server: MCPServer[Any], host: Host, batches: Batches) -> None:
    @server.tool(title="Run many commands", description=SPAWN_MANY, annotations=SPAWNS)
    async def spawn_many(
        ctx: Context[Any, Any],
        *,
        commands: Commands,
        files: Tree = None,
        images: Images = None,
        matrix: Matrix = None,
        until: Until = "all",
        kill_rest: KillRest = False,
        cpus: Cpus = None,
        memory_gb: MemoryGb = None,
        timeout_minutes: TimeoutMinutes = None,
        queue_minutes: QueueMinutes = 60,
        timeout_seconds: Seconds = 90.0,
    ) -> ManyResult:
        plan = Plan(
            variants=matrices.expand(commands, images or [], matrix or {}),
            fields={"cpus": cpus, "memory_gb": memory_gb, "timeout_minutes": timeout_minutes},
            until=until,
            kill_rest=kill_rest,
            queue_seconds=queue_minutes * 60.0,
        )
        progress = Progress.of(ctx)
        trees = Trees(await host.client(), files, progress)
        return await _begun(batches, plan, trees, progress, timeout_seconds)


async def _begun(
    batches: Batches, plan: Plan, trees: Trees, progress: Progress, seconds: float
) -> ManyResult:
    """Begin the batch and wait for its end, or so many seconds."""
    batch = await batches.begin(plan, trees)
    try:
        await batch.wait(seconds, progress.tell)
    except asyncio.CancelledError:
        await batch.stop()  # nobody knows its id: start no more; what runs goes on
        raise
    finally:
        progress.mute()
    return batch.result()
