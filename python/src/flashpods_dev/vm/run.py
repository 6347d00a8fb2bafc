"""``./dev vm``: build what is missing, run the tests of the emulated machine."""

from __future__ import annotations

import subprocess
from pathlib import Path

from flashpods_dev.lab import base, product
from flashpods_dev.lab.run import PRODUCT, ROOT, STATE, call, writable
from flashpods_dev.machine import Machine, StackError
from flashpods_dev.report import Steps
from flashpods_dev.vm import build

DISKS = "FLASHPODS_VM_DISKS"
SECONDS = 1800  # an emulated processor on a slow machine takes some 15 minutes


def run(machine: Machine, state: Path, arguments: list[str]) -> int:
    """Run pytest on ``tests/vm``, or on what the arguments say; return its exit code.

    Raises:
        StackError: something can't be built, or the time is up.
    """
    root = base.ensure(machine)
    variables = {ROOT: str(root), PRODUCT: str(product.ensure(machine, root))}
    build.ensure(machine.checkout)
    laptop, disks = state / "lab", state / "disks"
    laptop.mkdir()
    disks.mkdir()
    variables |= {STATE: str(laptop), DISKS: str(disks)}
    where = [] if any(word.startswith("tests/") for word in arguments) else ["tests/vm"]
    steps = Steps()
    try:
        with writable(laptop):
            return call(machine, ["-v", *where, *arguments], variables, SECONDS)
    except subprocess.TimeoutExpired as e:
        raise StackError(f"the emulated machine's tests did not end within {SECONDS} s") from e
    finally:
        steps.done("emulated machine")
