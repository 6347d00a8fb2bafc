"""The commands that only ask or tell; ``run`` has its own module."""

from __future__ import annotations

from contextlib import aclosing

from flashpods.cli.bars import download_bar
from flashpods.cli.session import Ui
from flashpods.cli.terminal import plain
from flashpods.cli.units import human_bytes
from flashpods.client.client import FlashpodsClient
from flashpods.client.models import Job

__all__ = [
    "download_artifact",
    "kill_job",
    "list_artifacts",
    "list_jobs",
    "show_logs",
    "show_status",
]

PAGE = 100  # the API's own limit


async def list_jobs(client: FlashpodsClient, ui: Ui, status: list[str], limit: int) -> int:
    """Print up to ``limit`` jobs, newest first."""
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
    draining = bool((await client.health()).get("draining"))
    if ui.as_json:
        jobs = [job.raw for job in found]
        ui.emit({"jobs": jobs, "total": total, "next_cursor": cursor, "draining": draining})
        return 0
    if draining:
        ui.note("the host is draining: it takes no new jobs")
    if not found:
        ui.note("no jobs" if status == ["all"] else "no such jobs; --all shows ended ones")
        return 0
    from flashpods.cli.tables import show_jobs  # noqa: PLC0415 - rich only where it shows

    show_jobs(ui.console(), found)
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


async def show_logs(
    client: FlashpodsClient, ui: Ui, job_id: str, *, follow: bool, tail: int, timestamps: bool
) -> int:
    """Print the tail of a job's log, or follow all of it."""
    writer = ui.log_writer(timestamps=timestamps)
    if not follow:
        output = await client.output(job_id, tail)
        if ui.as_json:
            ui.emit(output.raw)
        else:
            text = output.output
            writer.write(text if text.endswith("\n") or not text else text + "\n")
        return 0
    async with aclosing(client.follow(job_id)) as pieces:
        async for text, cursor in pieces:
            if ui.as_json:
                ui.emit({"text": text, "cursor": cursor})
            else:
                writer.write(text)
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
    size = path.stat().st_size if path.is_file() else None
    if ui.as_json:
        ui.emit({"job_id": job_id, "name": name, "path": str(path), "size_bytes": size})
    else:
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
