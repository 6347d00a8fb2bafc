"""The twelve checks, their run, and what is shown of it."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from flashpods.admin.command import EXIT_FAILED, EXIT_OK, AdminError, Terminated, need_root
from flashpods.admin.validation import boundary, engine, identity, job, wireguard
from flashpods.admin.validation.check import Check, Outcome, run_checks
from flashpods.admin.validation.host import Choices, Host
from flashpods.cli.terminal import plain
from flashpods.cli.units import human_seconds

if TYPE_CHECKING:
    from flashpods.cli.session import Ui
    from flashpods.config import Settings

__all__ = ["CHECKS", "Lines", "as_json", "chosen", "run"]

CHECKS: Final[tuple[Check, ...]] = (
    *identity.CHECKS,
    *boundary.CHECKS,
    *wireguard.CHECKS,
    *job.CHECKS,
    *engine.CHECKS,
)
MARKS: Final = {
    "passed": ("ok", "green"),
    "failed": ("FAILED", "bold red"),
    "blocked": ("--", "yellow"),
}
TITLE_WIDTH: Final = max(len(check.title) for check in CHECKS)


def chosen(names: Sequence[str]) -> tuple[Check, ...]:
    """Return the checks of those names, all without any.

    Raises:
        AdminError: ``unknown_check``.
    """
    known = {check.name: check for check in CHECKS}
    if unknown := [name for name in names if name not in known]:
        raise AdminError(
            f"there is no check {unknown[0]!r:.80}; give one of {', '.join(known)}",
            code="unknown_check",
            exit_code=2,
        )
    return tuple(check for check in CHECKS if not names or check.name in names)


def run(ui: Ui, settings: Settings, choices: Choices, names: Sequence[str] = ()) -> int:
    """Run the checks and show them; return the process's exit code.

    Raises:
        AdminError: an unknown name, or the caller is not root.
        Terminated: SIGTERM came; everything is cleaned up.
    """
    checks = chosen(names)
    need_root("validate")
    began = time.monotonic()
    show = Lines(ui)
    outcomes = asyncio.run(_run(Host(settings, choices), checks, show))
    passed = all(outcome.passed for outcome in outcomes)
    seconds = time.monotonic() - began
    if ui.as_json:
        ui.emit(as_json(outcomes, seconds))
    else:
        show.sum(outcomes, seconds)
    return EXIT_OK if passed else EXIT_FAILED


async def _run(host: Host, checks: Sequence[Check], show: Lines) -> list[Outcome]:
    task = asyncio.current_task()
    assert task is not None
    stopped = False

    def stop() -> None:
        nonlocal stopped
        stopped = True
        task.cancel()

    # Not by an exception in the midst of the loop: cancelled as by ctrl-C, checks tidy up.
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop)
    try:
        async with host:
            return await run_checks(host, checks, show)
    except asyncio.CancelledError:
        if stopped:
            raise Terminated from None
        raise
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


def as_json(outcomes: Sequence[Outcome], seconds: float) -> dict[str, Any]:
    """Return the whole as JSON has it: ``{"passed", "seconds", "checks": [...]}``.

    A check has ``name, title, status`` (``passed``, ``failed``, ``blocked``), ``passed, said,
    remedy`` (empty unless failed), ``seconds``.
    """
    return {
        "passed": all(outcome.passed for outcome in outcomes),
        "seconds": round(seconds, 3),
        "checks": [
            {
                "name": outcome.check.name,
                "title": outcome.check.title,
                "status": outcome.status,
                "passed": outcome.passed,
                "said": outcome.said,
                "remedy": outcome.remedy,
                "seconds": round(outcome.seconds, 3),
            }
            for outcome in outcomes
        ],
    }


class Lines:
    """Prints a line an outcome, as it comes; nothing with ``--json``."""

    def __init__(self, ui: Ui) -> None:
        self._console = None if ui.as_json else ui.console()

    def __call__(self, outcome: Outcome) -> None:
        """Print what came of a check, and what to do about it."""
        if self._console is None:
            return
        from rich.text import Text  # noqa: PLC0415 - not needed for --json

        mark, style = MARKS[outcome.status]
        line = Text()
        line.append(f"{mark:<6} ", style)
        line.append(f"{outcome.check.title:<{TITLE_WIDTH}}  ", "bold")
        line.append(plain(outcome.said))
        line.append(f"  {human_seconds(outcome.seconds)}", "dim")
        self._console.print(line, soft_wrap=True)
        if outcome.remedy:
            self._console.print(
                Text(f"{'':<7}{'':<{TITLE_WIDTH}}  try: {plain(outcome.remedy)}", "yellow"),
                soft_wrap=True,
            )

    def sum(self, outcomes: Sequence[Outcome], seconds: float) -> None:
        """Print the last line."""
        if self._console is None:
            return
        failed = sum(not outcome.passed for outcome in outcomes)
        what = f"{failed} of {len(outcomes)} failed" if failed else f"all {len(outcomes)} passed"
        style = "bold red" if failed else "bold green"
        self._console.print(f"{what} in {human_seconds(seconds)}", style=style)
