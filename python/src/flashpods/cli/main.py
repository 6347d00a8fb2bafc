"""The command ``flashpods``: its subcommands are those of the ``cmd_`` modules."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from flashpods.cli import cmd_artifacts, cmd_host, cmd_jobs, cmd_laptop, cmd_run
from flashpods.cli.app import app
from flashpods.cli.cmd_mcp import mcp

__all__ = ["app", "main"]

# In the order in which --help shows them.
cmd_run.register(app)
cmd_jobs.register(app)
cmd_artifacts.register(app)
cmd_host.register(app)
cmd_laptop.register(app)
app.add_typer(mcp, name="mcp")


def main() -> None:
    """Run the command line; ends the process with its exit code."""
    _open_what_is_closed()
    app(prog_name="flashpods")


def _open_what_is_closed() -> None:
    """Give a stream that the caller closed (``2>&-``) to nobody, not to the next file opened."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 - to the end


if __name__ == "__main__":
    main()
