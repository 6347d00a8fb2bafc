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
from flashpods.client.client import FlashpodsClient
from flashpods.client.errors import ClientError, HostUnreachable

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
    console = ui.console()
    last: Any = None
    with Live(console=console, auto_refresh=False, transient=False, screen=False) as live:
        if not ui.out_tty or ui.as_json:
            live.stop()
        while True:
            try:
                listed = await collect_jobs(client, status, limit)
            except ClientError as error:
                if not passes_by_itself(error):
                    raise
                ui.note(f"{error}; going on")
                await asyncio.sleep(interval)
                continue
            news = [{k: v for k, v in job.raw.items() if k not in TICKING} for job in listed.jobs]
            if ui.as_json:
                if news != last:
                    ui.emit(listed.raw)
            elif ui.out_tty:
                rest = listed.total - len(listed.jobs)
                more = Text(plain(f"{rest} more; ctrl-C ends" if rest > 0 else "ctrl-C ends"))
                table = jobs_table(listed.jobs, client.clock_skew)
                live.update(Group(table, more), refresh=True)
            elif news != last:
                console.print(jobs_table(listed.jobs, client.clock_skew))
            last = news
            await asyncio.sleep(interval)
