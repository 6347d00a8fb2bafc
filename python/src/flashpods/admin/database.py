"""``flashpods-admin verify`` and ``vacuum``: is the database sound, and may it be smaller."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from flashpods.admin.command import (
    EXIT_FAILED,
    EXIT_OK,
    AdminError,
    Command,
    Json,
    SettingsFile,
    execute,
)

if TYPE_CHECKING:
    from flashpods.cli.session import Ui
    from flashpods.config import Settings

__all__ = ["VACUUM", "VERIFY"]

LIVE_SECONDS: Final = 4.0
"""A vacuum beside a live service is given up then: its writers wait for 5 s, then refuse."""
ALONE_SECONDS: Final = 3600.0


def verify(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="A backup. Default: the live database."),
    ] = None,
    json: Json = False,
    settings: SettingsFile = None,
) -> None:
    """Look at every page, index, reference and count of the database, or of a backup.

    Changes nothing, and may run beside the live services. Exit code 1: it is damaged.
    """
    raise typer.Exit(execute(lambda ui, s: _verify(ui, s, file), as_json=json, settings=settings))


def _verify(ui: Ui, settings: Settings, file: Path | None) -> int:
    import sqlite3  # noqa: PLC0415
    import tempfile  # noqa: PLC0415

    from flashpods.adapters.sqlite import copies, damage  # noqa: PLC0415 - the host's side
    from flashpods.admin.backups import packing  # noqa: PLC0415

    path = file or settings.paths.database
    seconds = settings.backup.deadline_seconds
    try:
        if path.name.endswith(".zst"):
            with tempfile.TemporaryDirectory(dir=path.parent) as directory:
                unpacked = Path(directory) / "check.db"
                packing.unpack(path, unpacked)
                found = copies.examine(unpacked, seconds=seconds)
        else:
            wal = damage.find(path)  # before SQLite opens it, which would drop what is garbled
            found = copies.examine(path, seconds=seconds)
            found.problems[:0] = [wal] if wal else []
    except copies.CopyError as e:
        raise AdminError(str(e), code=e.code) from e
    except (OSError, sqlite3.Error) as e:
        raise AdminError(f"{path}: {e}", code="unreadable") from e
    if ui.as_json:
        ui.emit(
            {
                "file": str(path),
                "sound": not found.problems,
                "problems": found.problems,
                "schema": found.schema,
                "jobs": found.jobs,
                "latest_event": found.latest,
                "size_bytes": found.size_bytes,
                "free_bytes": found.free_bytes,
            }
        )
        return EXIT_FAILED if found.problems else EXIT_OK
    for problem in found.problems:
        ui.note(f"damaged: {problem}")
    if found.problems:
        ui.note("remedy: flashpods-admin restore latest (docs/operations.md, database-issues)")
        return EXIT_FAILED
    ui.note(f"{path} is sound: schema {found.schema}, {found.jobs} jobs")
    return EXIT_OK


def vacuum(json: Json = False, settings: SettingsFile = None) -> None:
    """Write the database anew without its holes, and give the space back.

    Beside a live service it is given up after 4 s, so that no request fails for it: stop
    flashpods-api and flashpods-cleanup first then; running jobs go on meanwhile.
    """
    raise typer.Exit(execute(_vacuum, as_json=json, settings=settings))


def _vacuum(ui: Ui, settings: Settings) -> int:
    from flashpods.adapters.sqlite import copies  # noqa: PLC0415 - the host's side
    from flashpods.admin.backups.make import need_room  # noqa: PLC0415
    from flashpods.admin.privileges import as_owner_of  # noqa: PLC0415
    from flashpods.cli.units import human_bytes  # noqa: PLC0415

    path = settings.paths.database
    try:
        before = path.stat().st_size
        user = copies.user_of(path)
        need_room(path.parent, 2 * before)  # the copy, and the same once more in the WAL
        with as_owner_of(path):
            copies.vacuum(path, seconds=ALONE_SECONDS if user is None else LIVE_SECONDS)
    except copies.CopyError as e:
        live = e.code == "timeout"
        more = "; stop flashpods-api and flashpods-cleanup, repeat, start them" if live else ""
        raise AdminError(f"{e}{more}; nothing was changed", code=e.code) from e
    except OSError as e:
        raise AdminError(f"{path}: {e.strerror}", code="unreadable") from e
    after = path.stat().st_size
    if ui.as_json:
        ui.emit({"file": str(path), "before_bytes": before, "after_bytes": after})
    else:
        ui.note(f"{path}: {human_bytes(before)} before, {human_bytes(after)} now")
    return EXIT_OK


VERIFY: Final = Command(
    "verify",
    verify,
    (
        "flashpods-admin verify",
        "flashpods-admin verify /var/backups/flashpods/db-20261126.db",
        "flashpods-admin verify --json | jq .problems",
    ),
)
VACUUM: Final = Command("vacuum", vacuum, ("flashpods-admin vacuum",))
