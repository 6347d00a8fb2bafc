"""``./dev identity``: the tests of python/tests/identity, against real SPIRE."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from flashpods_dev.identity import build
from flashpods_dev.machine import UID, Machine

SECONDS = 600  # of one test; authorities take two minutes to rotate, on an idle machine


def run(machine: Machine, state: Path, arguments: list[str]) -> int:
    """Build what they need, once, and run pytest; return its code."""
    build.ensure(machine.dev)
    scratch = state / "tmp"
    scratch.mkdir()
    os.chown(scratch, UID, UID)
    command = [sys.executable, "-m", "pytest", f"--timeout={SECONDS}"]
    places = any(not word.startswith("-") and "/" in word for word in arguments)
    done = subprocess.run(
        [*command, *arguments, *([] if places else ["tests/identity"])],
        cwd=machine.checkout / "python",
        env={**os.environ, "FLASHPODS_TEST_TMP": str(scratch)},
        check=False,
    )
    return done.returncode
