"""What every command shares: the client, where its words go, and its exit code."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from flashpods.cli.terminal import LogWriter, plain, use_colour
from flashpods.client.errors import ClientError, ConfigError, HostUnreachable

if TYPE_CHECKING:
    from rich.console import Console

    from flashpods.client.client import FlashpodsClient

__all__ = [
    "EXIT_BROKEN_PIPE",
    "EXIT_FAILED",
    "EXIT_INTERRUPTED",
    "EXIT_RUN_FAILED",
    "EXIT_STILL_RUNNING",
    "EXIT_TIMED_OUT",
    "EXIT_UNREACHABLE",
    "EXIT_USAGE",
    "Command",
    "Ui",
    "execute",
    "guarded",
]

EXIT_FAILED: Final = 1  # the host refused, or something failed here
EXIT_USAGE: Final = 2  # the command line or the configuration is wrong
EXIT_UNREACHABLE: Final = 3  # no answer from the host
EXIT_STILL_RUNNING: Final = 4  # wait: its own time is over
EXIT_TIMED_OUT: Final = 124  # run: as timeout(1) says it
EXIT_RUN_FAILED: Final = 125  # run: not the job but Flashpods failed, as docker run says it
EXIT_INTERRUPTED: Final = 130  # 128 + SIGINT
EXIT_BROKEN_PIPE: Final = 141  # 128 + SIGPIPE


class Ui:
    """Where a command's words go: results to stdout, everything else to stderr.

    With ``as_json`` stdout carries JSON and nothing else.
    """

    def __init__(self, *, as_json: bool) -> None:
        """Look at the streams as they are now."""
        self.as_json = as_json
        self.tells_retries = True
        self.out_tty = sys.stdout.isatty()
        self.err_tty = sys.stderr.isatty()

    def emit(self, value: object) -> None:
        """Write one JSON value on a line of its own to stdout."""
        sys.stdout.write(json.dumps(value, ensure_ascii=True, default=str) + "\n")
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """Tell a person something, on stderr."""
        sys.stderr.write(plain(text) + "\n")
        sys.stderr.flush()

    def error(self, error: ClientError) -> None:
        """Tell what went wrong: one line, or with ``as_json`` one object on stdout."""
        if self.as_json:
            self.emit(error.as_dict())
        else:
            self.note(f"error: {error.message} ({error.code})")

    def retrying(self, error: ClientError, delay: float) -> None:
        """Tell that there will be another try, unless the command shows that in its own way."""
        if not self.tells_retries:
            return
        what = error.message.partition(";")[0]
        self.note(f"{what} ({error.code}); trying again in {delay:.1f} s")

    def log_writer(self, *, timestamps: bool, to_stderr: bool = False) -> LogWriter:
        """Return the writer of a job's output."""
        stream, tty = (
            (sys.stderr.buffer, self.err_tty) if to_stderr else (sys.stdout.buffer, self.out_tty)
        )
        return LogWriter(stream, tty=tty, colour=use_colour(tty), timestamps=timestamps)

    def console(self) -> Console:
        """Return rich's console for tables; a pipe gets lines that are not cut."""
        from rich.console import Console  # noqa: PLC0415 - not needed for --help or --json

        width = None if self.out_tty else 300
        return Console(width=width, highlight=False, no_color=not use_colour(self.out_tty))


Command = Callable[["FlashpodsClient", Ui], Awaitable[int]]


def execute(
    command: Command, *, as_json: bool, overrides: dict[type[ClientError], int] | None = None
) -> int:
    """Run a command against the configured host; return the process's exit code.

    Args:
        command: gets the open client; returns the exit code.
        as_json: whether stdout is for a machine.
        overrides: exit codes other than the usual for an error's class, most special first.
    """
    ui = Ui(as_json=as_json)
    return guarded(_open(command, ui), ui, overrides)


def guarded(
    work: Coroutine[Any, Any, int], ui: Ui, overrides: dict[type[ClientError], int] | None = None
) -> int:
    """Run a command's work to its end; whatever goes wrong is told and becomes an exit code."""
    try:
        return asyncio.run(work)
    except ClientError as error:
        ui.error(error)
        return _code(error, overrides or {})
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Python flushes stdout once more as it ends, and would complain about the same pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except OSError as error:  # of this machine: a directory that has gone, a full disk
        wrong = ClientError("local_failure", f"the laptop's own: {error}")
        ui.error(wrong)
        return _code(wrong, overrides or {})


async def _open(command: Command, ui: Ui) -> int:
    from flashpods.client.client import FlashpodsClient  # noqa: PLC0415 - httpx is slow to load
    from flashpods.client.config import ClientConfig  # noqa: PLC0415 - likewise

    config = await asyncio.to_thread(ClientConfig.load)
    async with FlashpodsClient(config, on_retry=ui.retrying) as client:
        return await command(client, ui)


def _code(error: ClientError, overrides: dict[type[ClientError], int]) -> int:
    usual: dict[type[ClientError], int] = {
        ConfigError: EXIT_USAGE,
        HostUnreachable: EXIT_UNREACHABLE,
        ClientError: EXIT_FAILED,
    }
    for table in (overrides, usual):
        for kind, code in table.items():
            if isinstance(error, kind):
                return code
    raise AssertionError
