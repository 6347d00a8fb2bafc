"""Pushing files and asking for a job, as the tools do it: taken back whole when cancelled."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from flashpods.client.errors import ClientError, UploadError
from flashpods.client.models import CreatedJob, Upload
from flashpods.client.project import default_project
from flashpods.client.rsync import Progress as Sent
from flashpods.client.target import ARTIFACTS_DIR
from flashpods.mcp.progress import Progress
from flashpods.mcp.schemas import Files, Spawned

if TYPE_CHECKING:
    from flashpods.client import FlashpodsClient  # loads httpx

__all__ = ["create", "excludes", "push", "source", "spawn"]

log = logging.getLogger(__name__)

TAKE_BACK_SECONDS: Final = 5.0
TELL_SECONDS: Final = 1.0
NEXT: Final = (
    "call wait_for_job with this job_id, or do other work first; the job goes on by itself"
)


def excludes(
    files: Files, default: Sequence[str], *, keep_git: bool = False
) -> tuple[list[str], list[str]]:
    """Return the patterns to leave out, and warnings.

    What came home from earlier jobs stays here. An agent commits, so what would leave its ``.git``
    out is dropped from the patterns.
    """
    patterns = [*(default if files.exclude is None else files.exclude), f"/{ARTIFACTS_DIR}"]
    if not keep_git:
        return patterns, []
    kept = [pattern for pattern in patterns if pattern.removeprefix("**/").strip("/") != ".git"]
    asked = files.exclude is not None and len(kept) < len(patterns)
    return kept, ["a sub-agent needs .git: it was pushed although excluded"] if asked else []


def source(files: Files) -> Path:
    """Return the directory to push.

    Raises:
        UploadError: ``invalid_local_path``: it is the root or the home directory, which no job
            needs and which hold the user's secrets.
    """
    path = Path(files.local_path).expanduser().absolute()
    if path.resolve() in {Path("/"), Path.home().resolve()}:
        raise UploadError(
            "invalid_local_path",
            f"{path} would push all of it, secrets too; name the project's own directory",
        )
    return path


async def push(
    client: FlashpodsClient, files: Files | None, progress: Progress, *, keep_git: bool = False
) -> tuple[Upload | None, list[str]]:
    """Push the files, if there are any, telling progress; return the upload and warnings."""
    if files is None:
        return None, []
    path = await asyncio.to_thread(source, files)
    patterns, warnings = excludes(files, client.config.default_exclude, keep_git=keep_git)
    told = _Told(progress)
    ticking = asyncio.create_task(told.run())
    try:
        upload = await client.push(
            path, exclude=patterns, project=default_project(path), progress=told.take
        )
    finally:
        ticking.cancel()
        with suppress(asyncio.CancelledError):
            await ticking
    return upload, [*warnings, *upload.warnings]


class _Told:
    """Passes rsync's progress on, at most once a second."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._sent = Sent(0, 0.0)

    def take(self, sent: Sent) -> None:
        self._sent = sent

    async def run(self) -> None:
        while True:
            await asyncio.sleep(TELL_SECONDS)
            part, megabytes = self._sent.fraction, self._sent.bytes / 1e6
            await self._progress.tell(f"pushing files: {part:.0%}, {megabytes:.1f} MB")


async def create(client: FlashpodsClient, **fields: Any) -> CreatedJob:
    """Create a job; a caller that is cancelled meanwhile leaves none behind.

    Nobody would know the id of a job whose creation was cancelled, so it is cancelled too.
    """
    task = asyncio.ensure_future(client.create_job(**fields))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task}, timeout=TAKE_BACK_SECONDS)
        if not task.done():
            task.cancel()
            log.warning("a cancelled call may have left a job: look with list_jobs")
        with suppress(asyncio.CancelledError, ClientError, TimeoutError):
            job = await task
            async with asyncio.timeout(TAKE_BACK_SECONDS):
                await client.cancel(job.job_id)
        raise


async def spawn(
    client: FlashpodsClient, files: Files | None, progress: Progress, **fields: Any
) -> Spawned:
    """Push the files, if there are any, and create the job of these fields on them."""
    agent = fields["type"] == "agent"
    upload, warnings = await push(client, files, progress, keep_git=agent)
    job = await create(client, files_id=upload.upload_id if upload else None, **fields)
    return _shown(job, upload, warnings)


def _shown(job: CreatedJob, upload: Upload | None, warnings: Sequence[str]) -> Spawned:
    granted = {key: job.granted.get(key) for key in ("cpus", "memory_gb", "timeout_minutes")}
    return Spawned(
        job_id=job.job_id,
        status=job.status,
        **{key: value if isinstance(value, int) else None for key, value in granted.items()},
        uploaded_files=upload.file_count if upload else None,
        uploaded_bytes=upload.size_bytes if upload else None,
        sent_bytes=upload.sent_bytes if upload else None,
        warnings=[*warnings, *job.warnings],
        next=NEXT,
    )
