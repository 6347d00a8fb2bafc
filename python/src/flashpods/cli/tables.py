"""Jobs and artifacts as tables for a person."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flashpods.cli.terminal import plain
from flashpods.cli.units import human_bytes, human_seconds
from flashpods.client.models import Artifact, Capacity, Job

__all__ = [
    "jobs_table",
    "show_artifacts",
    "show_capacity",
    "show_health",
    "show_job",
    "show_jobs",
    "show_pairs",
]

COLOURS: Final = {
    "completed": "green",
    "running": "cyan",
    "starting": "cyan",
    "pending": "yellow",
    "failed": "red",
    "timed_out": "red",
    "cancelled": "magenta",
    "cleaning": "dim",
    "cleaned": "dim",
}
COMMAND_CHARS: Final = 60


def _status(job: Job) -> Text:
    text = job.status + (f" ({job.phase})" if job.phase else "")
    if job.cancel_requested and not job.terminal:
        text += " cancelling"
    return Text(plain(text), style=COLOURS.get(job.status, ""))


def _what(job: Job) -> str:
    text = plain(job.command or job.task or "")
    return text if len(text) <= COMMAND_CHARS else text[: COMMAND_CHARS - 1] + "…"


def _ago(when: datetime | None, skew: float | None) -> str:
    """Return how long ago that was, by the host's clock; ours may be wrong."""
    if when is None:
        return ""
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    now = datetime.now(UTC) - timedelta(seconds=skew or 0.0)
    return human_seconds(max(0.0, (now - when).total_seconds()))


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, no_wrap=heading != "COMMAND", overflow="fold")
    return table


def show_jobs(console: Console, jobs: Sequence[Job], skew: float | None = None) -> None:
    """Print a line a job; ``skew`` is how many seconds our clock is ahead of the host's."""
    console.print(jobs_table(jobs, skew))


def jobs_table(
    jobs: Sequence[Job],
    skew: float | None = None,
    *,
    chosen: str | None = None,
    cut: bool = False,
) -> Table:
    """Return a row a job, the chosen one reversed; with ``cut`` none takes more than a line."""
    table = _table("JOB", "STATUS", "EXIT", "AGE", "TIME", "CPUS", "GB", "COMMAND")
    if cut:
        last = table.columns[-1]
        last.no_wrap, last.overflow, last.ratio = True, "ellipsis", 1
        table.expand = True  # so that the last one gives way, not the others
    for job in jobs:
        seconds = job.duration_seconds if job.terminal else job.elapsed_seconds
        table.add_row(
            Text(plain(job.id)),
            _status(job),
            "" if job.exit_code is None else str(job.exit_code),
            _ago(job.created_at, skew),
            human_seconds(seconds),
            str(job.cpus or ""),
            str(job.memory_gb or ""),
            Text(_what(job)),
            style="reverse" if job.id == chosen else "",
        )
    return table


def show_pairs(console: Console, pairs: Sequence[tuple[str, object]]) -> None:
    """Print a name and a value a line; None is left out."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs:
        if value is not None:
            table.add_row(name, value if isinstance(value, Text) else Text(plain(value)))
    console.print(table)


def show_capacity(console: Console, capacity: Capacity) -> None:
    """Print the host's size and what is free."""
    table = _table("", "CPUS", "GB")
    for name in ("host", "reserved", "available", "reserve"):
        size = getattr(capacity, name)
        label = {"reserved": "held by jobs", "reserve": "kept back"}.get(name, name)
        table.add_row(label, str(size.cpus), str(size.memory_gb))
    console.print(table)
    jobs = capacity.running_jobs
    draining = "; draining: takes no new jobs" if capacity.draining else ""
    console.print(f"{jobs} active job{'' if jobs == 1 else 's'}{draining}")


def show_health(console: Console, health: dict[str, Any]) -> None:
    """Print the host's state and its checks."""
    status = str(health.get("status"))
    show_pairs(
        console,
        [
            ("status", Text(plain(status), style="green" if status == "healthy" else "red")),
            ("version", health.get("version")),
            ("up", human_seconds(_seconds(health.get("uptime_seconds")))),
        ],
    )
    checks = health.get("checks")
    if isinstance(checks, dict):
        table = _table("CHECK", "STATUS", "MESSAGE")
        for name, check in checks.items():
            row = check if isinstance(check, dict) else {}
            word = plain(row.get("status"))
            style = {"ok": "green", "failing": "red", "warning": "yellow"}.get(word, "")
            table.add_row(
                plain(name), Text(word, style=style), Text(plain(row.get("message") or ""))
            )
        console.print(table)


def _seconds(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def show_job(console: Console, job: Job) -> None:
    """Print all of a job: its row, its warnings and its events."""
    seconds = job.duration_seconds if job.terminal else job.elapsed_seconds
    rows: list[tuple[str, str | Text | None]] = [
        ("job", job.id),
        ("status", _status(job)),
        ("exit code", None if job.exit_code is None else str(job.exit_code)),
        ("error", job.error),
        ("type", job.type),
        ("command", job.command),
        ("task", job.task),
        ("image", job.image),
        ("granted", f"{job.cpus} CPUs, {job.memory_gb} GB, {job.timeout_minutes} min"),
        ("created", str(job.raw.get("created_at") or "")),
        ("time", human_seconds(seconds)),
        *[("warning", warning) for warning in job.warnings],
    ]
    show_pairs(console, [(name, value or None) for name, value in rows])
    if job.events:
        events = _table("AT", "FROM", "TO", "WHY")
        for event in job.events:
            events.add_row(
                ""
                if event.at is None
                else f"{event.at:%H:%M:%S}.{event.at.microsecond // 1000:03}",
                Text(plain(event.from_status or "")),
                Text(plain(event.to_status)),
                Text(plain(event.why)),
            )
        console.print(events)


def show_artifacts(console: Console, artifacts: Sequence[Artifact]) -> None:
    """Print a line an artifact."""
    table = _table("NAME", "TYPE", "SIZE", "SHA256")
    for artifact in artifacts:
        table.add_row(
            Text(plain(artifact.name)),
            plain(artifact.type),
            human_bytes(artifact.size_bytes),
            plain(artifact.sha256 or ""),
        )
    console.print(table)
