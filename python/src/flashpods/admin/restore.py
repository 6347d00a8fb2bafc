"""``flashpods-admin restore FILE``: a backup in the place of the database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from flashpods.admin.command import EXIT_OK, AdminError, Command, Json, SettingsFile, execute

if TYPE_CHECKING:
    from flashpods.cli.session import Ui
    from flashpods.config import Settings

__all__ = ["COMMAND"]


def restore(
    file: Annotated[
        str,
        typer.Argument(metavar="FILE", help="A path, a name in the backup directory, or 'latest'."),
    ],
    with_files: Annotated[
        bool, typer.Option("--with-files", help="Also that day's artifacts and logs.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only check the backup; change nothing.")
    ] = False,
    json: Json = False,
    settings: SettingsFile = None,
) -> None:
    """Check a backup, stop the services, put it in place, start them, check again.

    The former database is kept beside it, in before-restore-TIME/ (the last three of them).
    Running jobs are not stopped; those that the backup does not know are ended by recovery.
    Interrupted, no service opens the database until the restore is run again.
    """
    raise typer.Exit(
        execute(
            lambda ui, s: _restore(ui, s, file, with_files=with_files, dry_run=dry_run),
            as_json=json,
            settings=settings,
        )
    )


def _restore(ui: Ui, settings: Settings, file: str, *, with_files: bool, dry_run: bool) -> int:
    from datetime import UTC, datetime  # noqa: PLC0415 - the host's side, as what follows

    from flashpods.adapters.sqlite.copies import CopyError  # noqa: PLC0415
    from flashpods.admin.backups import restore as work  # noqa: PLC0415
    from flashpods.admin.units import Units  # noqa: PLC0415

    source = work.locate(settings, file)
    try:
        if dry_run:
            return _checked(ui, settings, str(source))
        target = work.Target(
            settings=settings, file=source, with_files=with_files, units=Units.of_this_machine()
        )
        done = work.restore(target, now=datetime.now(UTC), say=ui.note)
    except CopyError as e:
        raise AdminError(str(e), code=e.code) from e
    if ui.as_json:
        ui.emit(
            {
                "file": str(done.file),
                "jobs": done.examined.jobs,
                "schema": done.examined.schema,
                "latest_event": done.examined.latest,
                "aside": str(done.aside),
                "restarted": done.restarted,
                "files": done.files,
                "verified_by": done.verified_by,
                "seconds": done.seconds,
            }
        )
        return EXIT_OK
    ui.note(
        f"restored {done.examined.jobs} jobs, as of {done.examined.latest or 'no event'}, in "
        f"{done.seconds:.1f} s; verified by {done.verified_by}"
    )
    if not done.restarted:
        ui.note("no service ran before, so none was started: start flashpods-api now")
    return EXIT_OK


def _checked(ui: Ui, settings: Settings, source: str) -> int:
    import tempfile  # noqa: PLC0415
    from pathlib import Path  # noqa: PLC0415

    from flashpods.admin.backups import packing  # noqa: PLC0415
    from flashpods.admin.backups import restore as work  # noqa: PLC0415

    with tempfile.TemporaryDirectory(dir=settings.paths.database.parent) as directory:
        new = Path(directory) / "check.db"
        packing.unpack(Path(source), new)
        found = work.check(new, seconds=settings.backup.deadline_seconds)
    if ui.as_json:
        ui.emit({"file": source, "jobs": found.jobs, "latest_event": found.latest, "sound": True})
    else:
        ui.note(f"{source} is sound: {found.jobs} jobs, as of {found.latest or 'no event'}")
    return EXIT_OK


COMMAND: Final = Command(
    "restore",
    restore,
    (
        "flashpods-admin restore latest",
        "flashpods-admin restore db-20261126.db --dry-run",
        "flashpods-admin restore /mnt/offsite/db-20261101.db.zst --with-files",
    ),
)
