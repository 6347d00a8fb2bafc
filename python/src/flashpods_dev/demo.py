"""stub"""

from pathlib import Path

from flashpods_dev.machine import Machine


def run(machine: Machine, state: Path) -> int:
    return 0
