"""Tests of a command of their own: what they need is slow, or not on every machine."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flashpods_dev.identity import build
from flashpods_dev.machine import UID, Machine


@dataclass(frozen=True, slots=True)
class Tier:
    """A directory of ``python/tests``; ``seconds`` that one test may take."""

    name: str
    seconds: int
    spire: bool


TIERS: Final = {
    tier.name: tier
    for tier in (
        Tier("identity", 600, spire=True),  # authorities take two minutes to rotate, if idle
        Tier("monitoring", 600, spire=True),
        Tier("ui", 300, spire=False),
    )
}


def run(machine: Machine, state: Path, tier: Tier, arguments: list[str]) -> int:
    """Build what they need, once, and run pytest; return its code."""
    if tier.spire:
        build.ensure(machine.dev)
    scratch = state / "tmp"
    scratch.mkdir()
    os.chown(scratch, UID, UID)
    command = [sys.executable, "-m", "pytest", f"--timeout={tier.seconds}"]
    places = any(not word.startswith("-") and "/" in word for word in arguments)
    done = subprocess.run(
        [*command, *arguments, *([] if places else [f"tests/{tier.name}"])],
        cwd=machine.checkout / "python",
        env={**os.environ, "FLASHPODS_TEST_TMP": str(scratch)},
        check=False,
    )
    return done.returncode
