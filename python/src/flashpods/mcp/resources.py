"""Logs and artifacts as resources, for clients that attach them to a conversation."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError
from mcp_types import Resource

from flashpods.client.errors import ClientError
from flashpods.client.models import Job
from flashpods.mcp import failures
from flashpods.mcp.host import Host, isolated
from flashpods.mcp.schemas import ArtifactView
from flashpods.mcp.tools.artifacts import find

if TYPE_CHECKING:
    from flashpods.client import FlashpodsClient  # loads httpx

__all__ = ["recent", "register"]

LOG_LINES: Final = 2000
MOST_BYTES: Final = 1 << 20
LISTED: Final = 20
LIST_SECONDS: Final = 3.0  # clients list when they start; a host that is away must not hold them

T = TypeVar("T")


def register(server: MCPServer[Any], host: Host) -> None:
    """Add the templates."""

    @server.resource(
        "flashpods://jobs/{job_id}/log",
        name="job_log",
        title="Log of a job",
        description=f"The last {LOG_LINES} lines of a job's log.",
        mime_type="text/plain",
    )
    async def job_log(job_id: str) -> str:
        return await _told(_log(host, job_id))

    @server.resource(
        "flashpods://jobs/{job_id}/artifacts",
        name="job_artifacts",
        title="Artifacts of a job",
        description="What a finished job left in /artifacts: names, sizes, digests.",
        mime_type="application/json",
    )
    async def job_artifacts(job_id: str) -> str:
        return await _told(_artifacts(host, job_id))

    @server.resource(
        "flashpods://jobs/{job_id}/artifacts/{name}",
        name="job_artifact",
        title="An artifact",
        description=f"A file that a finished job left, if it has at most {MOST_BYTES >> 20} MiB; "
        "larger ones and directories come with download_artifact.",
        mime_type="application/octet-stream",
    )
    async def job_artifact(job_id: str, name: str) -> str | bytes:
        return await _told(_artifact(host, job_id, name))


async def _told(work: Coroutine[Any, Any, T]) -> T:
    """Run it; a failure's text is the tools' ``{"error", "message"}``."""
    try:
        return await isolated(work)
    except ClientError as error:
        missing = error.code in {"job_not_found", "artifact_not_found"}
        kind = ResourceNotFoundError if missing else ResourceError
        raise kind(json.dumps(failures.as_dict(error), ensure_ascii=False)) from error


async def _log(host: Host, job_id: str) -> str:
    return (await (await host.client()).output(job_id, LOG_LINES)).output


async def _artifacts(host: Host, job_id: str) -> str:
    found = await (await host.client()).artifacts(job_id)
    return json.dumps([ArtifactView.of(item).model_dump(mode="json") for item in found])


async def _artifact(host: Host, job_id: str, name: str) -> str | bytes:
    client = await host.client()
    row = await find(client, job_id, name)
    if row.type == "directory" or row.size_bytes > MOST_BYTES:
        raise ClientError(
            "artifact_too_large",
            f"{name[:80]!r} is a {row.type} of {row.size_bytes} bytes; use download_artifact",
        )
    data = await _fetch(client, job_id, row.name)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data


async def _fetch(client: FlashpodsClient, job_id: str, name: str) -> bytes:
    """Return the artifact, verified as every download is."""
    directory = await asyncio.to_thread(tempfile.TemporaryDirectory, prefix="flashpods-")
    try:
        path = await client.download(job_id, name, Path(directory.name))
        return await asyncio.to_thread(path.read_bytes)
    finally:
        await asyncio.to_thread(directory.cleanup)


async def recent(host: Host) -> list[Resource]:
    """Return the logs and artifact lists of the newest jobs; none if the host is away."""
    try:
        async with asyncio.timeout(LIST_SECONDS):
            page = await (await host.client()).jobs("all", LISTED)
    except (ClientError, TimeoutError):
        return []
    return [resource for job in page.jobs for resource in _of(job)]


def _of(job: Job) -> list[Resource]:
    if job.status in {"pending", "cleaning", "cleaned"}:
        return []
    base = f"flashpods://jobs/{quote(job.id, safe='')}"
    what = (job.command or job.task or "").strip().partition("\n")[0][:80]
    log = Resource(
        uri=f"{base}/log",
        name=f"log of {job.id}",
        title=f"{what or job.type} ({job.status})",
        description=f"Log of {job.type} {job.id}",
        mime_type="text/plain",
    )
    if not job.terminal:
        return [log]
    listing = Resource(
        uri=f"{base}/artifacts",
        name=f"artifacts of {job.id}",
        description=f"Artifacts of {job.type} {job.id}",
        mime_type="application/json",
    )
    return [log, listing]
