"""The whole of ``tests/lab`` as two pytests at once, on machines of their own.

Half of its time is waiting: for a job's deadline, a grace, a handshake. And one pytest uses one of
the two cores.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

TESTS: Final = "tests/lab"
SCRIPTS: Final = f"{TESTS}/test_checks.py"  # about as long as all the others together
NARROWING: Final = ("-k", "-m", "--boundary", "--lf", "--ff", "--collect-only")


def whole(arguments: Sequence[str]) -> bool:
    """Whether the arguments leave nothing out: then it is long enough for two."""
    return not any(word.startswith(("tests/", *NARROWING)) for word in arguments)


def run(
    python: Path, arguments: Sequence[str], variables: Mapping[str, str], state: str, seconds: float
) -> int:
    """Run both halves, the second's output after the first's; return the first exit code not 0.

    Args:
        python: the directory that pytest runs in.
        arguments: pytest's, for both.
        variables: the environment's.
        state: the variable that names where machines write; each half gets a directory in it.
        seconds: for each.

    Raises:
        subprocess.TimeoutExpired: one did not end.
    """
    place = Path(variables[state])
    words = {"scripts": [SCRIPTS], "others": [TESTS, f"--ignore={SCRIPTS}"]}
    running: dict[str, subprocess.Popen[bytes]] = {}
    said = place / "others.out"
    try:
        with said.open("wb") as out:
            for name, paths in words.items():
                (place / name).mkdir()
                apart = out if name == "others" else None
                running[name] = subprocess.Popen(
                    [sys.executable, "-m", "pytest", *paths, *arguments],
                    cwd=python,
                    env={**os.environ, **variables, state: str(place / name)},
                    stdout=apart,
                    stderr=apart,
                )
            codes = [child.wait(seconds) for child in running.values()]
        sys.stdout.write(said.read_text(errors="replace"))
        return next((code for code in codes if code), 0)
    finally:
        for child in running.values():
            if child.poll() is None:
                child.terminate()
                child.wait()
