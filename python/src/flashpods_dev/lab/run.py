"""``./dev lab``: build what is missing, run the tests of the lab."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from flashpods_dev.lab import base, product
from flashpods_dev.machine import Machine

STATE = "FLASHPODS_LAB_STATE"
ROOT = "FLASHPODS_LAB_ROOT"
PRODUCT = "FLASHPODS_LAB_PRODUCT"
SECONDS = 1500


def run(machine: Machine, state: Path, arguments: list[str]) -> int:
    """Run pytest on ``tests/lab``, or on what the arguments say; return its exit code."""
    root = base.ensure(machine)
    layer = product.ensure(machine, root)
    where = [] if any(word.startswith("tests/") for word in arguments) else ["tests/lab"]
    # Overlays want their writable layer on a file system that is none.
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4g", "flashpods-lab", str(state)], check=True
    )
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *where, *arguments],
            cwd=machine.checkout / "python",
            env={**os.environ, STATE: str(state), ROOT: str(root), PRODUCT: str(layer)},
            timeout=SECONDS,
            check=False,
        )
    finally:
        subprocess.run(["umount", "--lazy", str(state)], check=False)
    return done.returncode
