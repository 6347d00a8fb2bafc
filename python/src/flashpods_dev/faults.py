"""``./dev faults``: run the fault experiments and print their scoreboard; ``./dev soak``."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from flashpods_dev.machine import UID, Machine

BOARD = "faults.json"
RECOVERY_SECONDS = 10


def run(machine: Machine, state: Path, arguments: list[str]) -> int:
    """Run them in the namespace; return 1 if an invariant broke."""
    parser = argparse.ArgumentParser(prog="./dev faults", description="see ./dev faults --help")
    parser.add_argument("--full", action="store_true", help="every failpoint 20 times")
    parser.add_argument("--json", action="store_true", help="the scoreboard as JSON")
    parser.add_argument("--only", metavar="NAME", help="part of an experiment's name")
    args = parser.parse_args(arguments)
    board = machine.dev / BOARD
    board.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "tests/faults"]
    command += [f"--timeout={3600 if args.full else 240}"]
    command += ["-k", args.only.replace("-", "_")] if args.only else []
    code = subprocess.run(
        command,
        cwd=machine.checkout / "python",
        env={**os.environ, **_variables(state, board), "FLASHPODS_FAULTS_FULL": str(+args.full)},
        stdout=sys.stderr,  # the scoreboard alone is on standard output
        check=False,
    ).returncode
    rows: list[dict[str, Any]] = json.loads(board.read_text()) if board.exists() else []
    if args.json:
        print(json.dumps(rows, indent=2))
    else:
        Console().print(table(rows))
    return code


def _variables(state: Path, board: Path) -> dict[str, str]:
    scratch = state / "t"
    scratch.mkdir()
    scratch.chmod(0o755)
    os.chown(scratch, UID, UID)
    return {"FLASHPODS_TEST_TMP": str(scratch), "FLASHPODS_FAULTS_BOARD": str(board)}


def table(rows: list[dict[str, Any]]) -> Table:
    """Return the scoreboard for a person; times in seconds."""
    board = Table(title="faults (issue 4)")
    for column in ("#", "experiment", "tries", "passed", "recovered", "reads p99", "took", ""):
        right = column in {"#", "tries", "passed", "recovered", "reads p99", "took"}
        board.add_column(column, justify="right" if right else "left")
    for row in rows:
        passed = row["passed"] == row["tries"] and not row["broken"]
        notes = [f"\n[dim]{note}[/dim]" for note in row["notes"]]
        notes += [f"\n[red]{line}[/red]" for line in row["broken"][:4]]
        board.add_row(
            str(row["number"]),
            row["name"] + "".join(notes),
            str(row["tries"]),
            str(row["passed"]),
            _seconds(row["recovery_seconds"]),
            _seconds(row["read_p99_seconds"], digits=3),
            _seconds(row["seconds"]),
            "[green]held[/green]" if passed else "[red]BROKE[/red]",
        )
    return board


def _seconds(value: float | None, *, digits: int = 1) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def soak(machine: Machine, state: Path, arguments: list[str]) -> int:
    """Run the soak in the namespace; return its exit code."""
    variables = _variables(state, machine.dev / "soak.json")
    return subprocess.run(
        [sys.executable, "tests/faults/soak.py", *arguments],
        cwd=machine.checkout / "python",
        env={**os.environ, **variables},
        check=False,
    ).returncode
