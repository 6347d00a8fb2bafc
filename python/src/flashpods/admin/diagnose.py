"""``flashpods-admin doctor``: what is wrong with this host, why, and what ends it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import typer

from flashpods.admin.command import EXIT_FAILED, EXIT_OK, Command, Json, SettingsFile, execute

if TYPE_CHECKING:
    from flashpods.admin.doctor.finding import Finding
    from flashpods.cli.session import Ui
    from flashpods.config import Settings

__all__ = ["COMMAND"]


def doctor(json: Json = False, settings: SettingsFile = None) -> None:
    """Look for each trouble of the operations guide by its symptoms; changes nothing.

    Works with every part down. As another user than root it leaves out what only root may see.
    Exit code 1: there is trouble; notices alone are 0.
    """
    raise typer.Exit(execute(_doctor, as_json=json, settings=settings))


def _doctor(ui: Ui, settings: Settings) -> int:
    from flashpods.admin.doctor.examine import examine, take  # noqa: PLC0415 - the host's side
    from flashpods.admin.doctor.finding import Severity  # noqa: PLC0415

    found: list[Finding] = []
    names = []
    for check, findings in examine(take(settings)):
        names.append(check.name)
        found += findings
        if not ui.as_json:
            _show(ui, check.name, findings)
    bad = [f for f in found if f.severity is not Severity.NOTICE]
    if ui.as_json:
        ui.emit({"healthy": not bad, "checks": names, "findings": [f.as_dict() for f in found]})
    return EXIT_FAILED if bad else EXIT_OK


def _show(ui: Ui, name: str, findings: list[Finding]) -> None:
    from rich.text import Text  # noqa: PLC0415 - rich only where it shows

    from flashpods.admin.doctor.finding import GUIDE  # noqa: PLC0415
    from flashpods.cli.terminal import plain  # noqa: PLC0415

    show = partial(ui.console().print, sep="", soft_wrap=True)  # a command must stay one line
    if not findings:
        show(Text("ok        ", style="green"), Text(name))
    colours = {"critical": "red", "warning": "yellow", "notice": "cyan"}
    for found in findings:
        mark = Text(f"{found.severity.value:<10}", style=colours[found.severity.value])
        show(mark, Text(f"{name}: {plain(found.symptom)}"))
        show(Text(f"          why: {plain(found.cause)}"))
        for line in found.evidence:
            show(Text(f"               {plain(line)}"))
        for line in found.remedy:
            show(Text(f"          do:  {plain(line)}"))
        show(Text(f"          see: {GUIDE}#{found.anchor}"))


COMMAND: Final = Command(
    "doctor",
    doctor,
    (
        "flashpods-admin doctor",
        "flashpods-admin doctor --json | jq -r '.findings[].remedy[]'",
    ),
)
