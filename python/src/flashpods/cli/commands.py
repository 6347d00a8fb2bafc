"""The commands that only ask or tell, in one step each."""

from __future__ import annotations

import asyncio
from pathlib import Path

from flashpods.cli.bars import download_bar
from flashpods.cli.session import EXIT_FAILED, Ui
from flashpods.cli.terminal import plain
from flashpods.cli.units import human_bytes
from flashpods.client.client import FlashpodsClient
from flashpods.client.errors import DownloadError
from flashpods.client.models import Job, JobList

__all__ = [
    "collect_jobs",
    "copy_artifacts",
    "download_artifact",
    "kill_job",
    "list_artifacts",
    "list_jobs",
    "show_capacity",
    "show_health",
    "show_status",
]

PAGE = 100  # the API's own limit


async def collect_jobs(client: FlashpodsClient, status: list[str], limit: int) -> JobList:
    """Return up to ``limit`` jobs, newest first, over as many pages as that takes."""
    found: list[Job] = []
    cursor: str | None = None
    total = 0
    while len(found) < limit:
        page = await client.jobs(status, min(PAGE, limit - len(found)), cursor)
        found += page.jobs
        total = page.total
        cursor = page.next_cursor
        if cursor is None or not page.jobs:
            break
    raw = {"jobs": [job.raw for job in found], "total": total, "next_cursor": cursor}
    return JobList(jobs=tuple(found), total=total, next_cursor=cursor, raw=raw)


async def list_jobs(client: FlashpodsClient, ui: Ui, status: list[str], limit: int) -> int:
    """Print up to ``limit`` jobs, newest first."""
    listed = await collect_jobs(client, status, limit)
    found, total = listed.jobs, listed.total
    draining = bool((await client.health()).get("draining"))
    if ui.as_json:
        ui.emit({**listed.raw, "draining": draining})
        return 0
    if draining:
        ui.note("the host is draining: it takes no new jobs")
    if not found:
        ui.note("no jobs" if status == ["all"] else "no such jobs; --all shows ended ones")
        return 0
    from flashpods.cli.tables import show_jobs  # noqa: PLC0415 - rich only where it shows

    show_jobs(ui.console(), found, client.clock_skew)
    if total > len(found):
        ui.note(f"{len(found)} of {total}; --limit shows more")
    return 0


async def show_status(client: FlashpodsClient, ui: Ui, job_id: str) -> int:
    """Print one job."""
    job = await client.get_job(job_id)
    if ui.as_json:
        ui.emit(job.raw)
        return 0
    from flashpods.cli.tables import show_job  # noqa: PLC0415 - rich only where it shows

    show_job(ui.console(), job)
    return 0


async def list_artifacts(client: FlashpodsClient, ui: Ui, job_id: str) -> int:
    """Print what a job left."""
    found = await client.artifacts(job_id)
    if ui.as_json:
        ui.emit({"artifacts": [artifact.raw for artifact in found]})
        return 0
    if not found:
        ui.note("no artifacts")
        return 0
    from flashpods.cli.tables import show_artifacts  # noqa: PLC0415 - rich only where it shows

    show_artifacts(ui.console(), found)
    return 0


async def download_artifact(
    client: FlashpodsClient, ui: Ui, job_id: str, name: str, *, to: str, extract: bool
) -> int:
    """Bring one artifact home and print where it is."""
    with download_bar(ui, name) as on_bytes:
        path = await client.download(job_id, name, to, extract=extract, progress=on_bytes)
    if ui.as_json:
        ui.emit(_brought(job_id, name, path))
    else:
        size = path.stat().st_size if path.is_file() else None
        ui.note(f"{plain(path)}{'' if size is None else f', {human_bytes(size)}'}")
    return 0


async def kill_job(client: FlashpodsClient, ui: Ui, job_id: str) -> int:
    """Ask for a job's end."""
    answer = await client.cancel(job_id)
    if ui.as_json:
        ui.emit(answer)
    else:
        ui.note(f"job {job_id} {answer.get('status', 'cancelled')}")
    return 0


async def copy_artifacts(
    client: FlashpodsClient, ui: Ui, job_id: str, name: str | None, *, to: str, extract: bool
) -> int:
    """Bring one artifact home, or all of them into a directory."""
    if name is not None:
        return await download_artifact(client, ui, job_id, name, to=to, extract=extract)
    directory = to if to.endswith("/") else f"{to}/"
    if directory != to and await asyncio.to_thread(_is_link, to):
        raise DownloadError(
            "invalid_target", f"{to} is a symbolic link; name it with a slash, or move it away"
        )
    rows = []
    for artifact in await client.artifacts(job_id):
        with download_bar(ui, artifact.name) as on_bytes:
            path = await client.download(
                job_id,
                artifact.name,
                directory,
                extract=extract,
                artifact=artifact,
                progress=on_bytes,
            )
        rows.append(_brought(job_id, artifact.name, path))
        if not ui.as_json:
            ui.note(plain(path))
    if ui.as_json:
        ui.emit({"artifacts": rows})
    elif not rows:
        ui.note("no artifacts")
    return 0


def _is_link(path: str) -> bool:
    return Path(path).expanduser().is_symlink()


def _brought(job_id: str, name: str, path: Path) -> dict[str, object]:
    size = path.stat().st_size if path.is_file() else None
    return {"job_id": job_id, "name": name, "path": str(path), "size_bytes": size}


async def show_capacity(client: FlashpodsClient, ui: Ui) -> int:
    """Print what the host offers and what is free."""
    capacity = await client.capacity()
    if ui.as_json:
        ui.emit(capacity.raw)
        return 0
    from flashpods.cli.tables import show_capacity as show  # noqa: PLC0415 - rich, likewise

    show(ui.console(), capacity)
    return 0


async def show_health(client: FlashpodsClient, ui: Ui) -> int:
    """Print the host's checks; 1 if it is degraded."""
    health = await client.health()
    if ui.as_json:
        ui.emit(health)
    else:
        from flashpods.cli.tables import show_health as show  # noqa: PLC0415 - rich, likewise

        show(ui.console(), health)
    return 0 if health.get("status") == "healthy" else EXIT_FAILED
