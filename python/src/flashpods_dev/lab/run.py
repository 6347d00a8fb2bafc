"""``./dev lab``: build what is missing, run the tests of the lab."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from flashpods_dev.lab import base, parts, product
from flashpods_dev.machine import Machine

STATE = "FLASHPODS_LAB_STATE"
ROOT = "FLASHPODS_LAB_ROOT"
PRODUCT = "FLASHPODS_LAB_PRODUCT"
BOUNDARY = "--boundary"
NO_PRODUCT = "not deployed and not long"
SECONDS = 2400


def run(machine: Machine, state: Path, arguments: list[str]) -> int:
    """Run pytest on ``tests/lab``, or on what the arguments say; return its exit code.

    With ``--boundary`` only what needs no SPIRE, and the short of that.
    """
    root = base.ensure(machine)
    variables = {STATE: str(state), ROOT: str(root)}
    if BOUNDARY in arguments:
        arguments = [*(word for word in arguments if word != BOUNDARY), "-m", NO_PRODUCT]
    else:
        variables[PRODUCT] = str(product.ensure(machine, root))
    where = [] if any(word.startswith("tests/") for word in arguments) else ["tests/lab"]
    with writable(state):
        if PRODUCT in variables and parts.whole(arguments):
            return parts.run(machine.checkout / "python", arguments, variables, STATE, SECONDS)
        return call(machine, [*where, *arguments], variables, SECONDS)


@contextmanager
def writable(state: Path) -> Iterator[None]:
    """Have a tmpfs there: overlays want their writable layer on a file system that is none."""
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6g", "flashpods-lab", str(state)], check=True
    )
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(state)], check=False)


def call(
    machine: Machine, arguments: list[str], variables: Mapping[str, str], seconds: float
) -> int:
    """Run pytest on the checkout, within that time; return its exit code."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        cwd=machine.checkout / "python",
        env={**os.environ, **variables},
        timeout=seconds,
        check=False,
    )
    return done.returncode
