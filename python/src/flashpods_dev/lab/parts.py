"""The whole of ``tests/lab`` as several pytests at once, each on machines of its own.

Most of its time is waiting: for a job's deadline, a grace, a handshake. And one pytest uses one of
the two cores.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

PART: Final = "FLASHPODS_LAB_PART"
# On HOST with stand-ins; and what runs on a deployed HOST, dealt in turn to three of them.
STAND_INS: Final = "stand-ins"
DEPLOYED: Final = ("deployed-1", "deployed-2", "deployed-3")
NAMES: Final = (*DEPLOYED, STAND_INS)
TESTS: Final = "tests/lab"
NARROWING: Final = ("-k", "-m", "--boundary", "--lf", "--ff", "--collect-only")


def whole(arguments: Sequence[str]) -> bool:
    """Whether the arguments leave nothing out: then it is long enough for several."""
    return not any(word.startswith(("tests/", *NARROWING)) for word in arguments)


def shares(part: str | None, deployed: Sequence[bool]) -> list[bool]:
    """Say of each test whether the part has it; without a part there is only one, which has all.

    Args:
        part: one of :data:`NAMES`.
        deployed: of each test, in its order, whether it runs on a deployed HOST.
    """
    if part is None:
        return [True] * len(deployed)
    if part == STAND_INS:
        return [not it for it in deployed]
    turn = DEPLOYED.index(part)
    return [it and sum(deployed[:i]) % len(DEPLOYED) == turn for i, it in enumerate(deployed)]


def run(
    python: Path, arguments: Sequence[str], variables: Mapping[str, str], state: str, seconds: float
) -> int:
    """Run all parts, the others' output after the first's; return the first exit code not 0.

    Args:
        python: the directory that pytest runs in.
        arguments: pytest's, for each.
        variables: the environment's.
        state: the variable that names where machines write; each part gets a directory in it.
        seconds: for each.

    Raises:
        subprocess.TimeoutExpired: one did not end.
    """
    place = Path(variables[state])
    running: list[subprocess.Popen[bytes]] = []
    try:
        with ExitStack() as outputs:
            for name in NAMES:
                (place / name).mkdir()
                apart = (
                    outputs.enter_context((place / f"{name}.out").open("wb")) if running else None
                )
                running.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "pytest", TESTS, *arguments],
                        cwd=python,
                        env={**os.environ, **variables, state: str(place / name), PART: name},
                        stdout=apart,
                        stderr=apart,
                    )
                )
        codes = [child.wait(seconds) for child in running]
        for name in NAMES[1:]:
            sys.stdout.write((place / f"{name}.out").read_text(errors="replace"))
        return next((code for code in codes if code), 0)
    finally:
        for child in running:
            if child.poll() is None:
                child.terminate()
                child.wait()
