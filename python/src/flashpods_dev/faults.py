"""``./dev faults``: run the fault experiments and print their scoreboard; ``./dev soak``."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from flashpods_dev.machine import UID, Machine

BOARD = "faults.json"
KILLS = "tests/faults/test_failpoints.py"
WIDTH = 110  # of the scoreboard, also into a file
NOTHING_CHOSEN = 5  # pytest's exit code when --only leaves a run without a test


def run(machine: Machine, state: Path, arguments: list[str]) -> int:
    """Run them in the namespace; return 1 if an invariant broke."""
    parser = argparse.ArgumentParser(prog="./dev faults", description="see ./dev faults --help")
    parser.add_argument("--full", action="store_true", help="every failpoint 20 times")
    parser.add_argument("--json", action="store_true", help="the scoreboard as JSON")
    parser.add_argument("--only", metavar="NAME", help="part of an experiment's or place's name")
    args = parser.parse_args(arguments)
    board = machine.dev / BOARD
    only = args.only or ""
    if not only:
        board.unlink(missing_ok=True)
    place = only if "." in only else ""  # a failpoint, which experiment 1 visits
    chosen = ["-k", "sigkill_at_every" if place else only.replace("-", "_")] if only else []
    scratch = _scratch(state)
    # Half of the full run is kills of the API, half is waiting: so both go on at once. But two
    # stacks at a time: a third would be a load of ours in the times that are judged.
    runs = [[KILLS], ["tests/faults", f"--ignore={KILLS}"]] if args.full else [["tests/faults"]]
    alone = scratch / "alone"  # is there once a half has the machine for itself
    boards = [board.with_suffix(f".{number}.json") for number in range(len(runs))]
    children = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider"),
                f"--timeout={3600 if args.full else 400}",
                *(*places, *chosen),
            ],
            cwd=machine.checkout / "python",
            env={
                **os.environ,
                "FLASHPODS_TEST_TMP": str(scratch),
                "FLASHPODS_FAULTS_BOARD": str(part),
                "FLASHPODS_FAULTS_FULL": str(+args.full),
                "FLASHPODS_FAULTS_PLACE": place,
                "FLASHPODS_FAULTS_ALONE": str(alone),
            },
            stdout=sys.stderr,  # the scoreboard alone is on standard output
        )
        for places, part in zip(runs, boards, strict=True)
    ]
    codes = finished(children, alone)
    rows = taken(boards)
    if not only:  # a part is not the scoreboard
        board.write_text(json.dumps(rows, indent=2) + "\n")
    if args.json:
        print(json.dumps(rows, indent=2))
    else:
        console = Console()
        console.width = max(console.width, WIDTH)
        console.print(table(rows))
    return outcome(codes, rows)


def finished(children: Sequence[subprocess.Popen[bytes]], alone: Path) -> list[int]:
    """Wait for all, the shorter half first; after it ``alone`` is there."""
    codes = []
    for child in reversed(children):
        codes.append(child.wait())
        alone.touch()
    return codes


def taken(boards: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the rows of all halves in order; their files go."""
    rows: list[dict[str, Any]] = []
    for part in boards:
        rows += json.loads(part.read_text()) if part.exists() else []
        part.unlink(missing_ok=True)
    return sorted(rows, key=lambda row: (row["number"], row["name"]))


def outcome(codes: Sequence[int], rows: Sequence[dict[str, Any]]) -> int:
    """Return the exit code of a run whose halves ended so, with a scoreboard like that.

    A half that was killed (a code below 0) is no success, nor is one that nothing was chosen for,
    unless the other one had something to do.
    """
    if all(code == NOTHING_CHOSEN for code in codes):
        return NOTHING_CHOSEN
    well = all(code in {0, NOTHING_CHOSEN} for code in codes)
    return 0 if well and rows and all(held(row) for row in rows) else 1


def held(row: Mapping[str, Any]) -> bool:
    """Whether an experiment was tried, and held each time."""
    return bool(row["tries"]) and row["passed"] == row["tries"] and not row["broken"]


def _scratch(state: Path) -> Path:
    """Make the directory for the stacks' own ones."""
    scratch = state / "t"
    scratch.mkdir()
    scratch.chmod(0o755)
    os.chown(scratch, UID, UID)
    return scratch


def table(rows: list[dict[str, Any]]) -> Table:
    """Return the scoreboard for a person; times in seconds, load for each core."""
    board = Table(title="faults (issue 4)")
    for column in (
        "#",
        "experiment",
        "tries",
        "passed",
        "recovered",
        "reads p99",
        "load",
        "took",
        "",
    ):
        board.add_column(column, justify="left" if column in {"", "experiment"} else "right")
    for row in rows:
        notes = [f"\n[dim]{note}[/dim]" for note in row["notes"]]
        notes += [f"\n[red]{line}[/red]" for line in row["broken"][:4]]
        board.add_row(
            str(row["number"]),
            row["name"] + "".join(notes),
            str(row["tries"]),
            str(row["passed"]),
            _seconds(row["recovery_seconds"]),
            _seconds(row["read_p99_seconds"], digits=3),
            f"{row['load']:.1f}",
            _seconds(row["seconds"]),
            "[green]held[/green]" if held(row) else "[red]BROKE[/red]",
        )
    return board


def _seconds(value: float | None, *, digits: int = 1) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def soak(machine: Machine, state: Path, arguments: list[str]) -> int:
    """Run the soak in the namespace; return its exit code."""
    variables = {
        "FLASHPODS_TEST_TMP": str(_scratch(state)),
        "FLASHPODS_FAULTS_BOARD": str(machine.dev / "soak.json"),
    }
    return subprocess.run(
        [sys.executable, "tests/faults/soak.py", *arguments],
        cwd=machine.checkout / "python",
        env={**os.environ, **variables},
        check=False,
    ).returncode
