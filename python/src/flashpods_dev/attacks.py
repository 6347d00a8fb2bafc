"""``./dev attacks``: run the attacks and print their scoreboard."""

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


def run(machine: Machine, state: Path, arguments: list[str]) -> int:
    """Run them in the namespace; return 1 if one got through."""
    parser = argparse.ArgumentParser(
        prog="./dev attacks",
        description="Run every attack and load of issue 4 and print the scoreboard.",
        epilog="examples: ./dev attacks    ./dev attacks --full --json    ... --only rsync",
    )
    parser.add_argument("--full", action="store_true", help="with the long ones, at real sizes")
    parser.add_argument(
        "--examples", type=int, metavar="N", help="runs of each state machine; a night's are 2000"
    )
    parser.add_argument("--json", action="store_true", help="the scoreboard as JSON")
    parser.add_argument("--only", metavar="NAME", help="a number or part of a name")
    args = parser.parse_args(arguments)
    scratch, board = state / "tmp", state / "scoreboard.json"
    scratch.mkdir()
    os.chown(scratch, UID, UID)
    variables = {
        "FLASHPODS_TEST_TMP": str(scratch),
        "FLASHPODS_SCOREBOARD": str(board),
        "FLASHPODS_ATTACKS_FULL": "1" if args.full else "0",
        "FLASHPODS_ATTACKS_EXAMPLES": str(args.examples or (40 if args.full else 0)),
        "FLASHPODS_ATTACKS_ONLY": args.only or "",
    }
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "tests/attacks"]
    code = subprocess.run(
        command,
        cwd=machine.checkout / "python",
        env={**os.environ, **variables},
        stdout=sys.stderr,  # the scoreboard alone is on standard output
        check=False,
    ).returncode
    rows: list[dict[str, Any]] = json.loads(board.read_text()) if board.exists() else []
    rows.sort(key=lambda row: int(row["number"]))
    if not args.only:  # a part is not the scoreboard
        (machine.dev / "attacks.json").write_text(json.dumps(rows, indent=2) + "\n")
    if args.json:
        print(json.dumps(rows, indent=2))
    else:
        Console().print(table(rows))
    return code


def table(rows: list[dict[str, Any]]) -> Table:
    """Return the scoreboard for a person."""
    board = Table(title="attacks and load (issue 4)")
    for column in ("#", "attack", "tries", "passed", "worst figure", "s", ""):
        board.add_column(
            column, justify="right" if column in {"#", "tries", "passed", "s"} else "left"
        )
    for row in rows:
        held = not row["failed"] and 0 < row["tries"] == row["passed"]
        notes = "".join(f"\n[dim]{note}[/dim]" for note in row["notes"])
        board.add_row(
            str(row["number"]),
            row["name"] + notes,
            str(row["tries"]),
            str(row["passed"]),
            row["worst"],
            f"{row['seconds']:.1f}",
            "[green]held[/green]" if held else "[red]FAILED[/red]",
        )
    return board
