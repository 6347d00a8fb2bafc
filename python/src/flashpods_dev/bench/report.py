"""A measured figure beside its peer's, with its goal."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One line of the scoreboard; the ratio is ours / peer's, in the figure's own unit."""

    name: str
    unit: str
    ours: float
    peer_name: str
    peer: float
    goal: float
    at_most: bool  # whether the goal is an upper bound for the ratio (False: a lower one)
    note: str = ""

    @property
    def ratio(self) -> float:
        """Ours divided by the peer's."""
        return self.ours / self.peer

    @property
    def met(self) -> bool:
        """Whether the goal is reached."""
        return self.ratio <= self.goal if self.at_most else self.ratio >= self.goal

    def row(self) -> dict[str, object]:
        """Return the line for machines."""
        return {
            "name": self.name,
            "unit": self.unit,
            "ours": round(self.ours, 4),
            "peer_name": self.peer_name,
            "peer": round(self.peer, 4),
            "ratio": round(self.ratio, 3),
            "goal": f"{'<=' if self.at_most else '>='} {self.goal}",
            "met": self.met,
            "note": self.note,
        }


def p50(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def show(results: Sequence[Result]) -> None:
    """Print the scoreboard as a table."""
    table = Table(title="ours beside the peer's, one run; goals are ratios")
    for column in ("what", "ours", "peer", "ratio", "goal", ""):
        table.add_column(column, justify="left" if column in {"what", "peer", ""} else "right")
    for r in results:
        verdict = "[green]met[/green]" if r.met else "[red]missed[/red]"
        table.add_row(
            r.name + (f"\n[dim]{r.note}[/dim]" if r.note else ""),
            f"{r.ours:.3g} {r.unit}",
            f"{r.peer:.3g} {r.unit} [dim]({r.peer_name})[/dim]",
            f"{r.ratio:.2f}",
            f"{'≤' if r.at_most else '≥'} {r.goal}",
            verdict,
        )
    console = Console()
    console.print(table)
    missed = [r.name for r in results if not r.met]
    console.print(f"missed: {', '.join(missed)}" if missed else "every goal is met")
