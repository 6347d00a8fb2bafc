"""``flashpods logs`` and ``attach``: a job's output, once or until its end."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from flashpods.cli.run import exit_code
from flashpods.cli.session import Ui
from flashpods.cli.since import LineFilter, Since
from flashpods.cli.units import human_seconds
from flashpods.client.client import FlashpodsClient

__all__ = ["LogOptions", "attach_job", "show_logs"]

PAGE_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOptions:
    """What the command line of ``logs`` says."""

    follow: bool
    since: Since | None
    tail: int
    timestamps: bool


async def show_logs(client: FlashpodsClient, ui: Ui, job_id: str, options: LogOptions) -> int:
    """Print the tail of a job's log, what came since a moment, or all of it to its end."""
    writer = ui.log_writer(timestamps=options.timestamps)
    if not options.follow and options.since is None:
        output = await client.output(job_id, options.tail)
        if ui.as_json:
            ui.emit(output.raw)
        else:
            text = output.output
            writer.write(text if text.endswith("\n") or not text else text + "\n")
        return 0
    async with aclosing(_pieces(client, job_id, options.since, follow=options.follow)) as pieces:
        async for text, cursor in pieces:
            if ui.as_json:
                ui.emit({"text": text, "cursor": cursor})
            else:
                writer.write(text)
    return 0


async def attach_job(
    client: FlashpodsClient, ui: Ui, job_id: str, since: Since | None, *, timestamps: bool
) -> int:
    """Show a job's output to its end, then return its exit code."""
    writer = ui.log_writer(timestamps=timestamps, to_stderr=ui.as_json)
    async with aclosing(_pieces(client, job_id, since, follow=True)) as pieces:
        async for text, _ in pieces:
            writer.write(text)
    job = await client.wait(job_id)
    if ui.as_json:
        ui.emit(job.raw)
    else:
        how = f", exit code {job.exit_code}" if job.exit_code is not None else ""
        why = f", {job.error}" if job.error else ""
        ui.note(f"job {job.id} {job.status}{how}{why} after {human_seconds(job.duration_seconds)}")
    return exit_code(job)


async def _pieces(
    client: FlashpodsClient, job_id: str, since: Since | None, *, follow: bool
) -> AsyncGenerator[tuple[str, int], None]:
    """Yield ``(text, cursor)`` from a moment on; to the job's end, or to what there is now."""
    cursor = since.cursor if since is not None else None
    passing = await _filter(client, job_id, since)
    source = client.follow(job_id, cursor) if follow else _pages(client, job_id, cursor or 0)
    async with aclosing(source) as pieces:
        async for text, after in pieces:
            shown = text if passing is None else passing.take(text)
            if shown:
                yield shown, after


async def _filter(client: FlashpodsClient, job_id: str, since: Since | None) -> LineFilter | None:
    if since is None or since.cursor is not None:
        return None
    job = await client.get_job(job_id)
    # The host's clock wrote the lines, so its time counts, not ours.
    now = datetime.now(UTC) - timedelta(seconds=client.clock_skew or 0.0)
    begin = since.begin(now)
    assert begin is not None
    return LineFilter(begin, (job.created_at or now).astimezone(UTC).date())


async def _pages(
    client: FlashpodsClient, job_id: str, cursor: int
) -> AsyncGenerator[tuple[str, int], None]:
    """Yield what the log holds by now, a page at a time."""
    most: int | None = None
    while True:
        page = await client.read_output(job_id, cursor, PAGE_BYTES)
        most = page.total_bytes if most is None else most
        after = page.next_offset if page.next_offset is not None else cursor
        if after <= cursor:
            return
        cursor = after
        yield page.output, cursor
        if cursor >= most:
            return
