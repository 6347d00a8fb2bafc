"""What a command of ``flashpods-admin`` is, and what all of them share.

A command's function takes typer's options, and ends with
``raise typer.Exit(execute(lambda ui, settings: …, as_json=json, settings=file))``.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Final

import typer

from flashpods.cli.session import EXIT_BROKEN_PIPE, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, Ui

if TYPE_CHECKING:
    from flashpods.config import Settings

__all__ = [
    "EXIT_CONFIG",
    "EXIT_FAILED",
    "EXIT_OK",
    "EXIT_USAGE",
    "AdminError",
    "Command",
    "Json",
    "SettingsFile",
    "epilog",
    "execute",
    "need_root",
]

EXIT_OK: Final = 0
EXIT_CONFIG: Final = 78  # sysexits.h
EXIT_TERMINATED: Final = 143  # 128 + SIGTERM

Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, and nothing else there.")]
SettingsFile = Annotated[
    Path | None,
    typer.Option(
        "--settings", metavar="FILE", help="The host's settings. Default: /etc/flashpods/…"
    ),
]


class AdminError(Exception):
    """A command can't do what it was told; the message names what and the remedy."""

    def __init__(self, message: str, *, code: str, exit_code: int = EXIT_FAILED) -> None:
        """Build the error.

        Args:
            message: one sentence for a person: what, its value, the remedy. Never a secret.
            code: the machine-readable ``error`` of ``--json``.
            exit_code: the process's.
        """
        super().__init__(message)
        self.message = message
        self.code = code
        self.exit_code = exit_code


@dataclass(frozen=True)
class Command:
    """One command, as :mod:`flashpods.admin.main` registers it."""

    name: str
    run: Callable[..., None]  # its docstring is the help, its signature the options
    examples: tuple[str, ...]  # whole command lines, the plainest first


class Terminated(BaseException):
    """SIGTERM came: cleaned up as after ctrl-C."""


def epilog(*examples: str) -> str:
    """Return a help text's last paragraph."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in examples)


def need_root(what: str) -> None:
    """Refuse to go on as another user than root.

    Raises:
        AdminError: ``not_root``.
    """
    if os.geteuid() != 0:
        raise AdminError(f"{what} needs root: run it with sudo", code="not_root")


def execute(command: Callable[[Ui, Settings], int], *, as_json: bool, settings: Path | None) -> int:
    """Run a command with the host's settings; return the process's exit code.

    ``finally`` blocks of the command run on ctrl-C and on SIGTERM as well.
    """
    from flashpods.config import load  # noqa: PLC0415 - pydantic is slow to load
    from flashpods.config_base import ConfigError  # noqa: PLC0415

    ui = Ui(as_json=as_json)
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        return command(ui, load(settings))
    except ConfigError as error:
        return _refused(ui, str(error), "invalid_config", EXIT_CONFIG)
    except AdminError as error:
        return _refused(ui, error.message, error.code, error.exit_code)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Terminated:
        return EXIT_TERMINATED
    except BrokenPipeError:
        # Python flushes stdout once more as it ends, and would complain about the same pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    finally:
        signal.signal(signal.SIGTERM, before)


def _refused(ui: Ui, message: str, code: str, exit_code: int) -> int:
    if ui.as_json:
        ui.emit({"error": code, "message": message})
    else:
        ui.note(f"error: {message} ({code})")
    return exit_code


def _terminate(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise Terminated
