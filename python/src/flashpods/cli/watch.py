"""``flashpods ps --watch``: the list, again and again."""

from __future__ import annotations

import asyncio
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.text import Text

from flashpods.cli.commands import collect_jobs
from flashpods.cli.session import Ui
from flashpods.cli.tables import jobs_table
from flashpods.cli.terminal import plain
from flashpods.cli.units import human_seconds
from flashpods.client.client import FlashpodsClient
from flashpods.client.errors import ClientError, HostUnreachable
from flashpods.client.models import JobList

__all__ = ["passes_by_itself", "watch_jobs"]

# What differs at every look without any news in it.
TICKING = ("elapsed_seconds",)


def passes_by_itself(error: ClientError) -> bool:
    """Return whether one who watches goes on: the host is away, busy or broken for now."""
    status = error.status or 0
    return isinstance(error, HostUnreachable) or status == 429 or status >= 500


async def watch_jobs(
    client: FlashpodsClient, ui: Ui, status: list[str], limit: int, interval: float
) -> int:
    """Show the list until ctrl-C; where nobody looks, each time it has changed."""
    if ui.out_tty and not ui.as_json:
        return await _watch_live(client, ui, status, limit, interval)
    console = ui.console()
    last: Any = None
    while True:
        try:
            listed = await collect_jobs(client, status, limit)
        except ClientError as error:
            if not passes_by_itself(error):
                raise
            ui.note(f"{error}; going on")
        else:
            news = [{k: v for k, v in job.raw.items() if k not in TICKING} for job in listed.jobs]
            if news != last and ui.as_json:
                ui.emit(listed.raw)
            elif news != last:
                console.print(jobs_table(listed.jobs, client.clock_skew))
            last = news
        await asyncio.sleep(interval)


async def _watch_live(
    client: FlashpodsClient, ui: Ui, status: list[str], limit: int, interval: float
) -> int:
    """Show one picture that changes; while the host is away, the last one, and for how long."""
    console = ui.console()
    clock = asyncio.get_running_loop().time
    listed, seen_at = None, clock()
    with Live(console=console, auto_refresh=False) as live:
        while True:
            said = "ctrl-C ends"
            try:
                listed, seen_at = await collect_jobs(client, status, limit), clock()
            except ClientError as error:
                if not passes_by_itself(error):
                    raise
                said = f"as it was {human_seconds(clock() - seen_at)} ago: {error}"
            live.update(_picture(listed, client.clock_skew, said, console.height), refresh=True)
            await asyncio.sleep(interval)


def _picture(listed: JobList | None, skew: float | None, said: str, height: int) -> Group:
    """Return as many jobs as fit above one line of words."""
    words = Text(plain(said), no_wrap=True, overflow="ellipsis")
    if listed is None:
        return Group(words)
    shown = listed.jobs[: max(1, height - 2)]
    rest = listed.total - len(shown)
    if rest > 0:
        words = Text(f"{rest} more; ", no_wrap=True, overflow="ellipsis") + words
    return Group(jobs_table(shown, skew, cut=True), words)
