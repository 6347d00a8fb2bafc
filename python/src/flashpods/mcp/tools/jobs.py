"""Tools that start, show, list and end jobs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from mcp.server.mcpserver import Context, MCPServer
from pydantic import Field

from flashpods.mcp import spawning
from flashpods.mcp.batches import Batches
from flashpods.mcp.host import Host
from flashpods.mcp.progress import Progress
from flashpods.mcp.schemas import (
    Cpus,
    EventView,
    Files,
    Image,
    JobDetails,
    JobId,
    JobListing,
    JobView,
    Killed,
    MemoryGb,
    Spawned,
    TimeoutMinutes,
)
from flashpods.mcp.tools.hints import KILLS, READS, SPAWNS

__all__ = ["register"]

Status = Literal[
    "all", "active", "pending", "starting", "running", "completed", "failed", "timed_out",
    "cancelled", "cleaning", "cleaned",
]  # fmt: skip

SPAWN_WORKER = """\
Run one shell command in a container on the Flashpods host, on a copy of a local directory.

Use it for builds, test suites, benchmarks and other work that takes more than some seconds or more
CPU and memory than this machine should give. It returns a job_id at once, while the job goes on:
then call wait_for_job. For several commands on the same files use spawn_many instead.

The command runs through /bin/sh -c in /work, which holds the files and is READ-ONLY: copy first to
build in place (`cp -r /work /tmp/w && cd /tmp/w && make`). What it writes to /artifacts can be
fetched afterwards. Its exit code is the job's. It runs as an ordinary user, so there is no apt-get:
choose an image that has the tools. It has the internet; all but /artifacts is gone at its end."""

SPAWN_SUB_AGENT = """\
Start another coding agent on the Flashpods host on a task of its own; it may take up to 2 hours.

Use it to hand off work that needs judgement and edits: fix a bug, write tests, a refactoring. For a
command whose output is all you want, use spawn_worker. The agent checks out git_branch, works,
commits and pushes by itself, and leaves /artifacts/summary.md and changes.patch. It knows nothing
of this conversation: put all it needs into task and context. With files it gets this directory,
.git included, in a writable /work; without, it clones what the task names."""

GET_JOB_STATUS = """\
Show one job now: status, exit code, error, limits, warnings, history. To wait for a job's end use
wait_for_job: it answers as soon as there is news and costs no polling."""

LIST_JOBS = """\
List jobs on the host, newest first. Use it to find jobs again whose ids are lost, for example after
a restart, or with status=active to see what runs."""

KILL_JOB = """\
End a job that is not needed any more: SIGTERM, 10 seconds, SIGKILL. Its output so far is kept.
Killing it twice is fine; a job that ended by itself answers job_already_terminal."""

Command = Annotated[str, Field(min_length=1, max_length=10_000, description="Shell command line.")]
Tree = Annotated[Files | None, Field(description="Directory to push. Without it /work is empty.")]
Task = Annotated[
    str, Field(min_length=1, max_length=100_000, description="What to do, complete in itself.")
]
GitBranch = Annotated[
    str, Field(min_length=1, max_length=255, description="Branch to work on and push.")
]
Repository = Annotated[Files | None, Field(description="Repository to push, .git included.")]
AgentContext = Annotated[
    str | None,
    Field(max_length=100_000, description="What it should know: findings, constraints."),
]


def register(server: MCPServer[Any], host: Host, _batches: Batches) -> None:
    """Add the tools."""
    _spawn_worker(server, host)
    _spawn_sub_agent(server, host)
    _looking(server, host)

    @server.tool(title="Kill a job", description=KILL_JOB, annotations=KILLS)
    async def kill_job(job_id: JobId) -> Killed:
        answer = await (await host.client()).cancel(job_id)
        return Killed(
            job_id=str(answer.get("job_id", job_id)),
            status=str(answer.get("status", "cancelled")),
            next="it ends within 10 seconds; wait_for_job tells when it has",
        )


def _spawn_worker(server: MCPServer[Any], host: Host) -> None:
    @server.tool(title="Run a command", description=SPAWN_WORKER, annotations=SPAWNS)
    async def spawn_worker(
        ctx: Context[Any, Any],
        *,
        command: Command,
        files: Tree = None,
        image: Image = None,
        cpus: Cpus = None,
        memory_gb: MemoryGb = None,
        timeout_minutes: TimeoutMinutes = None,
    ) -> Spawned:
        return await spawning.spawn(
            await host.client(),
            files,
            Progress.of(ctx),
            type="worker",
            command=command,
            image=image,
            cpus=cpus,
            memory_gb=memory_gb,
            timeout_minutes=timeout_minutes,
        )


def _spawn_sub_agent(server: MCPServer[Any], host: Host) -> None:
    @server.tool(title="Start a sub-agent", description=SPAWN_SUB_AGENT, annotations=SPAWNS)
    async def spawn_sub_agent(
        ctx: Context[Any, Any],
        *,
        task: Task,
        git_branch: GitBranch,
        files: Repository = None,
        context: AgentContext = None,
        cpus: Cpus = None,
        memory_gb: MemoryGb = None,
        timeout_minutes: TimeoutMinutes = None,
    ) -> Spawned:
        return await spawning.spawn(
            await host.client(),
            files,
            Progress.of(ctx),
            type="agent",
            task=task,
            git_branch=git_branch,
            context=context,
            cpus=cpus,
            memory_gb=memory_gb,
            timeout_minutes=timeout_minutes,
        )


def _looking(server: MCPServer[Any], host: Host) -> None:
    @server.tool(title="Show a job", description=GET_JOB_STATUS, annotations=READS)
    async def get_job_status(job_id: JobId) -> JobDetails:
        job = await (await host.client()).get_job(job_id)
        events = [EventView(status=e.to_status, at=e.at, why=e.why) for e in job.events]
        return JobDetails(**JobView.fields_of(job), events=events)

    @server.tool(title="List jobs", description=LIST_JOBS, annotations=READS)
    async def list_jobs(
        status: Annotated[
            Status, Field(description="active: pending, starting or running.")
        ] = "all",
        limit: Annotated[int, Field(ge=1, le=100, description="How many at most.")] = 20,
    ) -> JobListing:
        page = await (await host.client()).jobs(status, limit)
        return JobListing(jobs=[JobView.of(job) for job in page.jobs], total=page.total)
