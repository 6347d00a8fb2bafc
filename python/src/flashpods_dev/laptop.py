"""``./dev laptop``: the client under faults, and the sessions of docs/cli.md, on real stacks."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from flashpods_dev.machine import UID, Machine


def run(machine: Machine, state: Path, arguments: list[str]) -> int:
    """Run pytest on tests/laptop, or on what the arguments say; return its exit code."""
    parser = argparse.ArgumentParser(prog="./dev laptop", add_help=False, allow_abbrev=False)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--write", action="store_true")
    known, rest = parser.parse_known_args(arguments)
    scratch = state / "tmp"
    scratch.mkdir()
    os.chown(scratch, UID, UID)
    where = [] if any(word.startswith("tests/") for word in rest) else ["tests/laptop"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *where, *rest],
        cwd=machine.checkout / "python",
        env={
            **os.environ,
            "FLASHPODS_TEST_TMP": str(scratch),
            "FLASHPODS_LAPTOP_FULL": str(+known.full),
            "FLASHPODS_LAPTOP_WRITE": str(+known.write),
        },
        check=False,
    )
    return done.returncode
