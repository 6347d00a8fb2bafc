"""Tools about what a job left in /artifacts."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from mcp.server.mcpserver import Context, MCPServer
from pydantic import Field

from flashpods.client.errors import ClientError
from flashpods.client.models import Artifact
from flashpods.client.target import ARTIFACTS_DIR, check_name, held_within
from flashpods.mcp.batches import Batches
from flashpods.mcp.host import Host
from flashpods.mcp.progress import Progress
from flashpods.mcp.schemas import ArtifactList, ArtifactView, Downloaded, JobId
from flashpods.mcp.tools.hints import READS, WRITES_FILE

if TYPE_CHECKING:
    from flashpods.client import FlashpodsClient  # loads httpx

__all__ = ["find", "register"]

TELL_BYTES: Final = 4 << 20

GET_JOB_ARTIFACTS = """\
List the files that a finished job left in /artifacts, with sizes and digests. They are kept for an
hour after its end. To read a log use get_job_output; that needs no artifact."""

DOWNLOAD_ARTIFACT = """\
Copy one artifact of a finished job to this machine, verified by its sha256, and return its path.
A directory comes as NAME.tar. It replaces a file of the same name, never follows a link there, and
writes nowhere else."""


def register(server: MCPServer[Any], host: Host, _batches: Batches) -> None:
    """Add the tools."""

    @server.tool(title="List artifacts", description=GET_JOB_ARTIFACTS, annotations=READS)
    async def get_job_artifacts(job_id: JobId) -> ArtifactList:
        found = await (await host.client()).artifacts(job_id)
        return ArtifactList(job_id=job_id, artifacts=[ArtifactView.of(item) for item in found])

    @server.tool(
        title="Download an artifact", description=DOWNLOAD_ARTIFACT, annotations=WRITES_FILE
    )
    async def download_artifact(
        ctx: Context[Any, Any],
        job_id: JobId,
        artifact_name: Annotated[
            str, Field(min_length=1, max_length=255, description="As get_job_artifacts lists it.")
        ],
        save_to: Annotated[
            str | None,
            Field(
                min_length=1,
                max_length=4096,
                description="A directory that exists or ends in a slash, or the file to write; "
                "a relative one is beneath where the server was started, and goes through no link. "
                f"Default: {ARTIFACTS_DIR}/JOB_ID/",
            ),
        ] = None,
    ) -> Downloaded:
        client = await host.client()
        row = await find(client, job_id, artifact_name)
        told = _Told(Progress.of(ctx), artifact_name)
        place = save_to or f"{ARTIFACTS_DIR}/{job_id}/"
        path = await client.download(
            job_id,
            artifact_name,
            place,
            within=held_within(place),
            artifact=row,
            progress=told.take,
        )
        await told.settle()
        where = await asyncio.to_thread(_absolute, path)
        size = (await asyncio.to_thread(where.lstat)).st_size
        return Downloaded(path=str(where), size_bytes=size, sha256=row.sha256)


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


async def find(client: FlashpodsClient, job_id: str, name: str) -> Artifact:
    """Return the artifact's row.

    Raises:
        DownloadError: ``invalid_artifact_name``.
        ClientError: ``artifact_not_found`` and what the host says of the job.
    """
    check_name(name)
    rows = await client.artifacts(job_id)
    for row in rows:
        if row.name == name:
            return row
    has = ", ".join(row.name for row in rows[:10]) or "none"
    raise ClientError(
        "artifact_not_found", f"job {job_id} has no artifact {name[:80]!r}; it has {has[:500]}"
    )


class _Told:
    """Reports a download every few megabytes."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress = progress
        self._name = name
        self._told = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def take(self, done: int, total: int | None) -> None:
        if done - self._told < TELL_BYTES or self._tasks:
            return
        self._told = done
        of = f" of {total / 1e6:.1f}" if total else ""
        task = asyncio.create_task(self._progress.tell(f"{self._name}: {done / 1e6:.1f}{of} MB"))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def settle(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks)
