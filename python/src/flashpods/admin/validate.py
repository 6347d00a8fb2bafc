"""``flashpods-admin validate``: whether a live host does what it is for."""

from __future__ import annotations

from typing import Final

import typer

from flashpods.admin.command import Command, Json, SettingsFile, execute

__all__ = ["COMMAND"]


def validate(json: Json = False, settings: SettingsFile = None) -> None:
    """Run the twelve checks on this host; leaves nothing behind."""
    from flashpods.admin.validation.report import run  # noqa: PLC0415 - the host's side

    raise typer.Exit(execute(run, as_json=json, settings=settings))


COMMAND: Final = Command(
    "validate",
    validate,
    (
        "flashpods-admin validate",
        "flashpods-admin validate --json | jq -r '.checks[] | select(.passed | not).name'",
    ),
)
