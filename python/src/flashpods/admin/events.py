"""``flashpods-admin events JOB``: a job's history, also while the API is down."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from flashpods.admin.command import EXIT_OK, AdminError, Command, Json, SettingsFile, execute

if TYPE_CHECKING:
    from flashpods.adapters.sqlite.store import SqliteStore
    from flashpods.cli.session import Ui
    from flashpods.config import Settings
    from flashpods.jobs.model import Job, JobEvent

__all__ = ["COMMAND"]


def events(
    job: Annotated[str, typer.Argument(metavar="JOB", help="The job's id.")],
    json: Json = False,
    settings: SettingsFile = None,
) -> None:
    """Show each change of a job's state: when, from, to, why."""
    raise typer.Exit(execute(lambda ui, s: _events(ui, s, job), as_json=json, settings=settings))


def _events(ui: Ui, settings: Settings, job_id: str) -> int:
    from flashpods.adapters.sqlite.connection import to_text  # noqa: PLC0415 - the host's side
    from flashpods.admin.opened import with_store  # noqa: PLC0415

    async def work(store: SqliteStore) -> tuple[Job, list[JobEvent]]:
        found = await store.history(job_id)
        if found is None:
            raise AdminError(f"there is no job {job_id!r:.80}", code="job_not_found")
        return found

    job, found = with_store(settings, work)
    rows = [(to_text(e.at), e.from_status or "", e.to_status, e.why) for e in found]
    if ui.as_json:
        ui.emit(
            {
                "job_id": job.id,
                "status": job.status,
                "error": job.error,
                "events": [
                    {"at": at, "from": before or None, "to": after, "why": why}
                    for at, before, after, why in rows
                ],
            }
        )
        return EXIT_OK
    from flashpods.admin.tables import show  # noqa: PLC0415 - rich only where it shows

    show(ui, ("AT", "FROM", "TO", "WHY"), rows)
    return EXIT_OK


COMMAND: Final = Command(
    "events", events, ("flashpods-admin events JOB", "flashpods-admin events JOB --json")
)
