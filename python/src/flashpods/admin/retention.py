"""``flashpods-admin clean`` and ``gc``: what cleanup does by itself, now and on demand."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Final

import typer

from flashpods.admin.command import EXIT_FAILED, EXIT_OK, Command, Json, SettingsFile, execute
from flashpods.admin.durations import duration

if TYPE_CHECKING:
    from flashpods.bootstrap import Adapters
    from flashpods.cli.session import Ui
    from flashpods.config import Settings
    from flashpods.jobs.cleanup import Cleaner, Report

__all__ = ["CLEAN", "GC"]

DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count; change nothing.")]

WORDS: Final = {
    "adopt_uploads": "uploads that no row knew, taken in",
    "expire_uploads": "uploads expired",
    "delete_artifacts": "jobs' artifacts deleted",
    "finish_jobs": "jobs cleaned: log and artifacts deleted",
    "trim_logs": "logs deleted, over the quota of all logs",
    "sweep_uploads": "trees of ended uploads deleted",
    "sweep_trees": "old bases and left-over links deleted",
    "sweep_job_files": "jobs' left-over files deleted",
    "sweep_staged": "half collected artifacts deleted",
    "sweep_containers": "orphan containers removed",
    "trim_images": "rounds of images beyond their budget removed",
}


def clean(
    older_than: Annotated[
        timedelta,
        typer.Option(
            "--older-than", parser=duration, metavar="TIME", help="Since the job's end: 12h, 7d."
        ),
    ],
    dry_run: DryRun = False,
    json: Json = False,
    settings: SettingsFile = None,
) -> None:
    """Delete logs and artifacts of jobs that ended that long ago; their rows stay as history.

    May run beside the live services, and twice. Exit code 1: some could not be, and stay.
    """

    def work(cleaner: Cleaner) -> Awaitable[Report]:
        return cleaner.finish_older(older_than, dry=dry_run)

    raise typer.Exit(execute(lambda ui, s: _run(ui, s, work), as_json=json, settings=settings))


def gc(dry_run: DryRun = False, json: Json = False, settings: SettingsFile = None) -> None:
    """Do one round of cleanup now: retention, quotas, orphans, leftovers, images over budget.

    The same as flashpods-cleanup does every minute. With --dry-run what the sweeps for old bases,
    left-over links and images would find is not counted. Exit code 1: something failed, and is
    tried again by the next round.
    """

    def work(cleaner: Cleaner) -> Awaitable[Report]:
        return cleaner.run_once(dry=dry_run)

    raise typer.Exit(execute(lambda ui, s: _run(ui, s, work), as_json=json, settings=settings))


def _run(ui: Ui, settings: Settings, work: Callable[[Cleaner], Awaitable[Report]]) -> int:
    from flashpods.admin.opened import with_adapters  # noqa: PLC0415 - the host's side
    from flashpods.bootstrap import build_cleaner  # noqa: PLC0415

    async def opened(adapters: Adapters) -> Report:
        return await work(build_cleaner(settings, adapters))

    report = with_adapters(settings, opened)
    if ui.as_json:
        ui.emit({"dry_run": report.dry, "done": report.done, "failed": report.failed})
        return EXIT_FAILED if report.failed else EXIT_OK
    would = "would be: " if report.dry else ""
    for kind, count in report.done.items():
        ui.note(f"{count} {would}{WORDS[kind]}")
    for kind, count in report.failed.items():
        ui.note(f"{count} failed: {WORDS[kind]}")
    if not report.done and not report.failed:
        ui.note("there was nothing to do")
    return EXIT_FAILED if report.failed else EXIT_OK


CLEAN: Final = Command(
    "clean",
    clean,
    (
        "flashpods-admin clean --older-than 7d",
        "flashpods-admin clean --older-than 12h --dry-run",
    ),
)
GC: Final = Command("gc", gc, ("flashpods-admin gc", "flashpods-admin gc --dry-run --json"))
