"""The scoreboard of the fault experiments, and what only the full run does.

A module of its own: ``conftest`` is whichever directory's was loaded last.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from checker import percentile
from rig import Rig

from flashpods_dev.machine import StackError

RigFactory = Callable[..., Any]
# "1": ./dev faults --full; "0": ./dev faults; unset: ./dev test, the quick ones alone.
FULL = os.environ.get("FLASHPODS_FAULTS_FULL") == "1"
ALL = "FLASHPODS_FAULTS_FULL" in os.environ


def extent(full: int, usual: int, quick: int) -> int:
    """Return how often, or for how many seconds: ``--full``, ``./dev faults``, ``./dev test``."""
    return full if FULL else usual if ALL else quick


@dataclass
class Trial:
    """One try."""

    passed: bool = False


@dataclass
class Score:
    """A line of the scoreboard. Times in seconds."""

    number: int
    name: str
    tries: int = 0
    passed: int = 0
    recovery_seconds: float | None = None
    read_p99_seconds: float | None = None
    load: float = 1.0  # the most that the machine had to do for each core, as a mean of a try
    stretched: float = 1.0  # by how much the bounds on time were stretched for that
    seconds: float = 0.0
    broken: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    detail: dict[str, Any] = field(default_factory=dict)
    mark: int = 0  # where the lines of the test at work begin in ``broken``

    @contextmanager
    def trial(self, what: str = "") -> Iterator[Trial]:
        """Count a try; a failed assertion is kept, and the next try goes on."""
        begun = time.monotonic()
        self.tries += 1
        trial = Trial()
        try:
            yield trial
        except (AssertionError, ExceptionGroup, OSError, sqlite3.Error, StackError) as e:
            causes = e.exceptions if isinstance(e, ExceptionGroup) else [e]
            self.broken += [
                f"{what}: {(str(c).splitlines() or [repr(c)])[0][:300]}" for c in causes
            ]
        else:
            trial.passed = True
            self.passed += 1
        self.seconds += time.monotonic() - begun
        write_board()

    def judge(
        self, broken: list[str], recovery: float | None = None, rig: Rig | None = None
    ) -> None:
        """Take in a verdict."""
        if recovery is not None:
            self.recovery_seconds = max(self.recovery_seconds or 0.0, round(recovery, 3))
        if rig is not None and rig.reads:
            p99 = round(percentile(rig.reads, 0.99), 4)
            self.read_p99_seconds = max(self.read_p99_seconds or 0.0, p99)
        if rig is not None:
            self.load = max(self.load, round(rig.load, 1))
            self.stretched = max(self.stretched, round(rig.patience, 1))
        assert not broken, "; ".join(broken[:5])

    def settle(self) -> None:
        """Fail the test if one of its tries failed."""
        mine = self.broken[self.mark :]
        assert not mine, "\n".join(mine)
        assert self.tries, "nothing was tried"


_BOARD: dict[tuple[int, str], Score] = {}


def score_of(number: int, name: str) -> Score:
    """Return the line of that name, made at its first use."""
    return _BOARD.setdefault((number, name), Score(number, name))


def write_board() -> None:
    """Write the scoreboard as it is now: a long run can be looked at, and may be cut short."""
    if path := os.environ.get("FLASHPODS_FAULTS_BOARD"):
        rows = sorted(_BOARD.values(), key=lambda row: (row.number, row.name))
        Path(path).write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
