"""The tasks extension (SEP-2663, ``io.modelcontextprotocol/tasks``): a wait as a task.

``wait_for_job`` of a client that declares the extension answers with a task whose id is the job's,
so it needs no cap: the client asks ``tasks/get`` as often as it likes. The task is the job's row,
nothing is kept here, so it is found again after a sleep of the laptop, by another server process,
and for any job, whoever started it. ``tasks/cancel`` gives up the wait; like every cancelled wait
it leaves the job alone, ``kill_job`` ends it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.extension import Extension, MethodBinding
from mcp.server.mcpserver import require_client_extension
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS, CallToolRequestParams, RequestParams
from pydantic import Field

from flashpods.client.errors import ClientError
from flashpods.client.models import Job
from flashpods.mcp import waiting
from flashpods.mcp.host import Host, isolated

__all__ = ["EXTENSION", "WaitTasks"]

EXTENSION: Final = "io.modelcontextprotocol/tasks"
VERSIONS: Final = frozenset({"2026-07-28"})
POLL_MS: Final = 5000
TOOL: Final = "wait_for_job"


class TaskParams(RequestParams):
    """The parameters of every ``tasks/`` method; ``inputResponses`` is for tasks that ask."""

    task_id: str = Field(alias="taskId", min_length=1, max_length=64)


class WaitTasks(Extension):
    """Serves ``tasks/get``, ``tasks/update`` and ``tasks/cancel``, and answers waits with tasks."""

    identifier = EXTENSION

    def __init__(self, host: Host) -> None:
        """Keep what reaches the jobs."""
        self._host = host

    def methods(self) -> Sequence[MethodBinding]:
        """Return the extension's three methods."""
        return [
            MethodBinding("tasks/get", TaskParams, self._get, VERSIONS),
            MethodBinding("tasks/update", TaskParams, self._acknowledge, VERSIONS),
            MethodBinding("tasks/cancel", TaskParams, self._acknowledge, VERSIONS),
        ]

    async def intercept_tool_call(
        self,
        params: CallToolRequestParams,
        ctx: ServerRequestContext[Any, Any],
        call_next: CallNext,
    ) -> HandlerResult:
        """Answer a wait for a job that still runs with a task; all else goes on."""
        if params.name != TOOL or not _declared(ctx):
            return await call_next(ctx)
        job_id = (params.arguments or {}).get("job_id")
        try:
            if not isinstance(job_id, str):
                return await call_next(ctx)
            job = await isolated(self._job(job_id))
        except ClientError:
            return await call_next(ctx)  # which tells it as every tool does
        if job.terminal:
            return await call_next(ctx)
        return {"resultType": "task", **_task(job)}

    async def _job(self, job_id: str) -> Job:
        return await (await self._host.client()).get_job(job_id)

    async def _get(self, ctx: ServerRequestContext[Any, Any], params: TaskParams) -> HandlerResult:
        require_client_extension(ctx, EXTENSION)
        job = await self._known(params.task_id)
        answer = _task(job)
        if job.terminal:
            shown = await isolated(self._show(job))
            answer["result"] = shown
        return answer

    async def _show(self, job: Job) -> dict[str, Any]:
        """Return what ``wait_for_job`` would have answered."""
        view = await waiting.show(await self._host.client(), job)
        structured = view.model_dump(mode="json")
        text = json.dumps(structured, ensure_ascii=False, indent=2)
        content = [{"type": "text", "text": text}]
        return {"content": content, "structuredContent": structured, "isError": False}

    async def _acknowledge(
        self, ctx: ServerRequestContext[Any, Any], params: TaskParams
    ) -> HandlerResult:
        require_client_extension(ctx, EXTENSION)
        await self._known(params.task_id)
        return {}

    async def _known(self, task_id: str) -> Job:
        """Return the task's job.

        Raises:
            MCPError: -32602 for an unknown task; -32603 with the reason for any other failure.
        """
        try:
            return await isolated(self._job(task_id))
        except ClientError as error:
            unknown = error.code == "job_not_found"
            raise MCPError(
                code=INVALID_PARAMS if unknown else INTERNAL_ERROR,
                message=f"Failed to retrieve task: {error.message}",
                data=error.as_dict(),
            ) from error


def _declared(ctx: ServerRequestContext[Any, Any]) -> bool:
    if ctx.protocol_version not in VERSIONS:
        return False
    capabilities = ctx.session.client_capabilities
    extensions = capabilities.extensions if capabilities else None
    return bool(extensions) and EXTENSION in (extensions or {})


def _task(job: Job) -> dict[str, Any]:
    """Return the job as a task. A wait completes however the job ended; its result says how."""
    created = job.created_at or datetime.now(UTC)
    changed = max([created, *(event.at for event in job.events if event.at is not None)])
    phase = f" ({job.phase})" if job.phase else ""
    return {
        "taskId": job.id,
        "status": "completed" if job.terminal else "working",
        "statusMessage": f"job {job.id} is {job.status}{phase}",
        "createdAt": _text(created),
        "lastUpdatedAt": _text(changed),
        "ttlMs": None,
        "pollIntervalMs": POLL_MS,
    }


def _text(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")
