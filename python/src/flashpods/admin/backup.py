"""``flashpods-admin backup``: a checked copy of the database, beside the live services."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from flashpods.admin.command import EXIT_OK, AdminError, Command, Json, SettingsFile, execute

if TYPE_CHECKING:
    from flashpods.admin.backups.names import Kept
    from flashpods.cli.session import Ui
    from flashpods.config import Settings

__all__ = ["COMMAND"]


def backup(
    listed: Annotated[
        bool, typer.Option("--list", help="Show the backups that there are; make none.")
    ] = False,
    json: Json = False,
    settings: SettingsFile = None,
) -> None:
    """Copy the database while it is used, check the copy, keep 7 days and 4 weeks of them.

    A second run on the same day replaces that day's copy once the new one is proved to be good.
    The settings' section backup says where, how many, and whether artifacts and logs are taken.
    """
    command = _list if listed else _make
    raise typer.Exit(execute(command, as_json=json, settings=settings))


def _make(ui: Ui, settings: Settings) -> int:
    from datetime import UTC, datetime  # noqa: PLC0415 - the host's side, as what follows

    from flashpods.adapters.sqlite.copies import CopyError  # noqa: PLC0415
    from flashpods.admin.backups.make import make, prepare  # noqa: PLC0415
    from flashpods.admin.privileges import as_owner_of  # noqa: PLC0415
    from flashpods.cli.units import human_bytes  # noqa: PLC0415

    try:
        prepare(settings)
        with as_owner_of(settings.backup.directory):
            made = make(settings, now=datetime.now(UTC))
    except CopyError as e:
        raise AdminError(str(e), code=e.code) from e
    if ui.as_json:
        ui.emit(
            {
                "file": str(made.file),
                "size_bytes": made.size_bytes,
                "schema": made.examined.schema,
                "jobs": made.examined.jobs,
                "files": None if made.files is None else str(made.files),
                "packed": made.packed,
                "deleted": made.deleted,
                "warnings": made.warnings,
            }
        )
        return EXIT_OK
    ui.note(f"{made.file}: {human_bytes(made.size_bytes)}, {made.examined.jobs} jobs, sound")
    if made.files is not None:
        ui.note(f"{made.files}: {human_bytes(made.files_size_bytes or 0)}")
    for name in made.deleted:
        ui.note(f"deleted {name}: its retention is over")
    for warning in made.warnings:
        ui.note(f"warning: {warning}")
    return EXIT_OK


def _list(ui: Ui, settings: Settings) -> int:
    from flashpods.admin.backups.names import kept  # noqa: PLC0415

    directory = settings.backup.directory
    try:
        found = kept(directory)
    except OSError as e:
        raise AdminError(
            f"backup.directory {directory}: {e.strerror}; make a backup first", code="no_backups"
        ) from e
    if ui.as_json:
        ui.emit({"directory": str(directory), "backups": [_row(k) for k in found]})
        return EXIT_OK
    from flashpods.admin.tables import show  # noqa: PLC0415 - rich only where it shows
    from flashpods.cli.units import human_bytes  # noqa: PLC0415

    rows = [(k.path.name, f"{k.day}", human_bytes(k.path.stat().st_size)) for k in found]
    show(ui, ("BACKUP", "DAY", "SIZE"), rows)
    return EXIT_OK


def _row(kept: Kept) -> dict[str, object]:
    size = kept.path.stat().st_size
    return {"file": kept.path.name, "day": str(kept.day), "kind": kept.kind, "size_bytes": size}


COMMAND: Final = Command(
    "backup",
    backup,
    (
        "flashpods-admin backup",
        "flashpods-admin backup --list",
        "flashpods-admin backup --json | jq -r .file",
    ),
)
