"""``flashpods-admin fail-stuck``: end jobs that never came to run."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from flashpods.admin.command import EXIT_FAILED, EXIT_OK, Command, Json, SettingsFile, execute
from flashpods.admin.durations import duration

if TYPE_CHECKING:
    from flashpods.admin.ending import Ended
    from flashpods.bootstrap import Adapters
    from flashpods.cli.session import Ui
    from flashpods.config import Settings

__all__ = ["COMMAND"]


def fail_stuck(
    job: Annotated[
        list[str] | None,
        typer.Argument(metavar="[JOB]...", help="These jobs. Default: all that are stuck."),
    ] = None,
    older_than: Annotated[
        timedelta,
        typer.Option(
            "--older-than", parser=duration, metavar="TIME", help="How long in 'starting'."
        ),
    ] = "5m",  # type: ignore[assignment] # typer gives the default to the parser as well
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show which; change nothing.")
    ] = False,
    json: Json = False,
    settings: SettingsFile = None,
) -> None:
    """Remove the container of each stuck job and end the job as failed: stuck_in_starting.

    The API does this by itself after five minutes; this is for when it does not. A job that is
    named may be pending or starting, however long; one that runs is refused (flashpods kill).
    Repeated: nothing more. Exit code 1: Podman did not answer for some, which then stay.
    """
    raise typer.Exit(
        execute(
            lambda ui, s: _fail(ui, s, job or [], older_than, dry_run=dry_run),
            as_json=json,
            settings=settings,
        )
    )


def _fail(
    ui: Ui, settings: Settings, job_ids: list[str], older_than: timedelta, *, dry_run: bool
) -> int:
    from flashpods.admin import ending  # noqa: PLC0415 - the host's side
    from flashpods.admin.opened import with_adapters  # noqa: PLC0415

    async def work(adapters: Adapters) -> list[Ended]:
        found = await ending.stuck(adapters.store, job_ids, older_than, adapters.clock.now())
        return [await ending.fail(adapters, job, dry_run=dry_run) for job in found]

    done = with_adapters(settings, work)
    left = [ended for ended in done if ended.left and not ended.dry]
    if ui.as_json:
        rows: list[dict[str, Any]] = [
            {"job_id": e.job_id, "was": e.was, "now": e.now, "left": e.left} for e in done
        ]
        ui.emit({"dry_run": dry_run, "jobs": rows})
        return EXIT_FAILED if left else EXIT_OK
    if not done:
        ui.note("no job is stuck")
    for ended in done:
        ui.note(f"{ended.job_id}: {ended.was}, " + (ended.left or f"now {ended.now}"))
    return EXIT_FAILED if left else EXIT_OK


COMMAND: Final = Command(
    "fail-stuck",
    fail_stuck,
    (
        "flashpods-admin fail-stuck",
        "flashpods-admin fail-stuck --dry-run --older-than 10m",
        "flashpods-admin fail-stuck JOB",
    ),
)
