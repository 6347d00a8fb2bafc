"""What ./dev tells a person: on standard error, one line a step, with its time."""

from __future__ import annotations

import sys
import time
from contextlib import suppress


def say(text: str) -> None:
    """Print one line; a terminal that is gone must not keep us from cleaning up."""
    with suppress(OSError):
        print(f"./dev: {text}", file=sys.stderr, flush=True)


class Steps:
    """Times steps that follow each other."""

    def __init__(self) -> None:
        """Start the clock of the first step."""
        self.rows: list[tuple[str, float]] = []
        self._began = self._last = time.monotonic()

    def done(self, name: str, *, quiet: bool = False) -> float:
        """Note that the step that ran until now is done; return its seconds."""
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        self.rows.append((name, seconds))
        if not quiet:
            say(f"{name}: {seconds:.1f} s")
        return seconds

    @property
    def total(self) -> float:
        """Seconds from the beginning to the last step."""
        return self._last - self._began
