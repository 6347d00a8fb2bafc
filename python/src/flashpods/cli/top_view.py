"""What ``flashpods top`` shows: a picture of the host, and how it is drawn."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime
from typing import Any, Final

from rich.console import ConsoleDimensions, Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from flashpods.cli.tables import jobs_table
from flashpods.cli.terminal import plain, visible
from flashpods.cli.units import human_seconds
from flashpods.client.models import Capacity, Job, JobList

__all__ = ["Picture", "render"]

BAR_WIDTH: Final = 24
LEAST_LOG_ROWS: Final = 5


class Picture:
    """How the host was when it answered last, which job is chosen, and its log."""

    def __init__(self, *, log_lines: int) -> None:
        """Begin with nothing seen."""
        self.capacity: Capacity | None = None
        self.jobs: list[Job] = []
        self.chosen: str | None = None
        self.log: deque[str] = deque(maxlen=log_lines)
        self.log_note = ""
        self.problem: str | None = None
        self.seen_at: datetime | None = None
        self.skew: float | None = None

    def take(
        self, capacity: Capacity, active: JobList, recent: JobList, skew: float | None
    ) -> None:
        """Take in what the host answered; the chosen job stays chosen while it is listed."""
        running = {job.id for job in active.jobs}
        self.jobs = [*active.jobs, *(job for job in recent.jobs if job.id not in running)]
        self.capacity, self.skew, self.problem = capacity, skew, None
        self.seen_at = datetime.now(UTC)
        ids = [job.id for job in self.jobs]
        if self.chosen not in ids:
            self.chosen = ids[0] if ids else None

    def choose(self, step: int) -> None:
        """Choose another job, so many rows further."""
        ids = [job.id for job in self.jobs]
        if ids:
            now = ids.index(self.chosen) if self.chosen in ids else 0
            self.chosen = ids[min(max(now + step, 0), len(ids) - 1)]

    def as_dict(self) -> dict[str, Any]:
        """Return it for machines."""
        assert self.capacity is not None
        assert self.seen_at is not None
        return {
            "at": self.seen_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "capacity": self.capacity.raw,
            "jobs": [job.raw for job in self.jobs],
        }


def render(picture: Picture, size: ConsoleDimensions, *, log: bool = True) -> RenderableType:
    """Draw it to the terminal's size: capacity, as many jobs as half of it takes, the log."""
    parts: list[RenderableType] = [_head(picture)]
    if picture.problem is not None and picture.seen_at is not None:
        words = Text(plain(picture.problem), style="red", no_wrap=True, overflow="ellipsis")
        parts.append(words)
    if picture.capacity is not None:
        parts.append(_bars(picture.capacity))
    rows = max(3, size.height // 2 - 5) if log else len(picture.jobs)
    shown = _around(picture, rows)
    chosen = picture.chosen if log else None
    parts.append(jobs_table(shown, picture.skew, chosen=chosen, cut=log))
    if log:
        used = len(parts) + 1 + len(shown)  # one of the bars, the table's head
        parts.append(_log(picture, max(LEAST_LOG_ROWS, size.height - used)))
    return Group(*parts)


def _head(picture: Picture) -> Text:
    if picture.seen_at is None:
        return Text(plain(picture.problem or "asking the host …"))
    active = sum(not job.terminal for job in picture.jobs)
    text = Text(f"flashpods top   {active} active   ")
    if picture.capacity is not None and picture.capacity.draining:
        text.append("draining   ", style="yellow")
    if picture.problem is not None:
        ago = (datetime.now(UTC) - picture.seen_at).total_seconds()
        text.append(f"as it was {human_seconds(ago)} ago:", style="red")
    else:
        text.append("up/down choose, q leaves", style="dim")
    return text


def _bars(capacity: Capacity) -> Table:
    table = Table.grid(padding=(0, 1))
    for name, unit, total, free in (
        ("CPUs", "", capacity.host.cpus, capacity.available.cpus),
        ("memory", " GB", capacity.host.memory_gb, capacity.available.memory_gb),
    ):
        held = max(0, total - free)
        bar = ProgressBar(total=max(total, 1), completed=held, width=BAR_WIDTH)
        table.add_row(name, bar, f"{held}{unit} of {total}{unit} held")
    return table


def _around(picture: Picture, rows: int) -> list[Job]:
    """Return so many jobs, the chosen one among them."""
    ids = [job.id for job in picture.jobs]
    place = ids.index(picture.chosen) if picture.chosen in ids else 0
    start = max(0, min(place - rows + 1, len(ids) - rows))
    return picture.jobs[start : start + rows]


def _log(picture: Picture, height: int) -> Panel:
    title = f"log of {picture.chosen}" if picture.chosen else "no job"
    lines = [visible(line, colour=False) for line in picture.log]
    if picture.log_note:
        lines.append(f"({plain(picture.log_note)})")
    text = Text("\n".join(lines[-(height - 2) :]), no_wrap=True, overflow="ellipsis")
    return Panel(text, title=Text(plain(title)), title_align="left", height=height)
