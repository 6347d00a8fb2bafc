"""The rows of the attacks' scoreboard, and how much is asked of each attack."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from flashpods_dev import lanes

MB = 1024**2
FULL = os.environ.get("FLASHPODS_ATTACKS_FULL") == "1"
EXAMPLES = int(os.environ.get("FLASHPODS_ATTACKS_EXAMPLES", "0"))  # 0: the few of a quick run
ONLY = os.environ.get("FLASHPODS_ATTACKS_ONLY", "").lower()
# The scoreboard holds everybody to the times. ./dev test is there to find what hangs or is
# unbounded, also on a slow machine with other work: it allows this many times as much.
STRICT = "FLASHPODS_SCOREBOARD" in os.environ and lanes.BESIDE not in os.environ
PATIENCE = 1 if STRICT else 10
# Small enough that an attack on a quota takes a second, large enough that 5 % can be told.
QUOTA_BYTES = 400 * MB
QUOTA_FILES = 20_000


@dataclass(slots=True)
class Score:
    """One row: how often it was tried, how often it was held, the worst figure beside its bound."""

    number: int
    name: str
    tries: int = 0
    passed: int = 0
    worst: str = ""
    seconds: float = 0.0
    failed: bool = False
    notes: list[str] = field(default_factory=list)
    _shares: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """Count one try, passed if the block raises nothing."""
        self.tries += 1
        yield
        self.passed += 1

    def figure(self, what: str, value: float, bound: float, unit: str = "s") -> None:
        """Keep the worst of a figure, by its share of the bound; fail above the bound.

        Bounds in seconds are stretched by :data:`PATIENCE`.
        """
        bound *= PATIENCE if unit == "s" else 1
        share = value / bound if bound else float(value > 0)
        if share >= max(self._shares.values(), default=-1):
            self.worst = f"{what} {value:.3g} of {bound:.3g} {unit}"
        self._shares[what] = max(share, self._shares.get(what, 0))
        assert value <= bound, f"{what} is {value:.4g} {unit}, the bound is {bound:.4g}"

    def note(self, text: str) -> None:
        """Add what a reader of the scoreboard should know."""
        self.notes.append(text)
