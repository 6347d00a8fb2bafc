"""The command ``flashpods``: its subcommands are those of the ``cmd_`` modules."""

from __future__ import annotations

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
    app(prog_name="flashpods")


if __name__ == "__main__":
    main()
