"""The command ``flashpods-admin``: its subcommands and their help.

A command is a module of this package with a :class:`~flashpods.admin.command.Command`, and a line
in :data:`COMMANDS`. Only what ``--help`` needs is imported at a module's top; the rest when it
runs.
"""

from __future__ import annotations

from typing import Final

import typer

from flashpods.admin import (
    backup,
    database,
    diagnose,
    drain,
    events,
    images,
    laptop,
    restore,
    retention,
    status,
    stuck,
    token,
    validate,
)
from flashpods.admin.command import Command, epilog

__all__ = ["COMMANDS", "app", "main"]

COMMANDS: Final[tuple[Command, ...]] = (
    status.COMMAND,
    diagnose.COMMAND,
    drain.DRAIN,
    drain.RESUME,
    backup.COMMAND,
    restore.COMMAND,
    database.VERIFY,
    database.VACUUM,
    token.COMMAND,
    stuck.COMMAND,
    retention.CLEAN,
    retention.GC,
    images.COMMAND,
    events.COMMAND,
    laptop.COMMAND,
    validate.COMMAND,
)

EXIT_CODES: Final = """\b
Exit codes:
  0    done; for validate: every check passed
  1    refused, or something failed or was found; nothing is left half done
  2    the command line is wrong
  78   the settings file is wrong (flashpods check-config says the same)
  124  drain --wait: jobs are left, time is up
  130  interrupted by ctrl-C (143: by SIGTERM)

\b
Settings: --settings FILE, or FLASHPODS_SETTINGS_FILE, or /etc/flashpods/settings.json"""

app = typer.Typer(
    name="flashpods-admin",
    help="Operate a Flashpods host. Run it on the host, as root.",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help, as the command flashpods has it
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=epilog(*(command.examples[0] for command in COMMANDS)) + "\n\n" + EXIT_CODES,
)


@app.callback()
def _group() -> None:
    """Keep the command's name needed also while there is only one."""


for _command in COMMANDS:
    app.command(_command.name, epilog=epilog(*_command.examples))(_command.run)


def main() -> None:
    """Run the command line; ends the process with its exit code."""
    app(prog_name="flashpods-admin")


if __name__ == "__main__":
    main()
