"""Whether our Nix is Nix, and holds nothing that nobody uses; what can be told without nixpkgs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from flashpods_dev.report import Steps, say

SECONDS: Final = 120
PLACES: Final = ("flake.nix", "modules", "pkgs", "checks", "examples", "lab", "lib")
# Tool → its arguments, and how it is had where it is missing.
TOOLS: Final = {
    "nix-instantiate": (("--parse",), "apt-get install nix-bin"),
    "deadnix": (("--fail",), "cargo install deadnix, or the flake's devShell"),
}


def files(checkout: Path) -> list[Path]:
    """Return every Nix file of ours."""
    found: list[Path] = []
    for place in (checkout / name for name in PLACES):
        found += sorted(place.rglob("*.nix")) if place.is_dir() else [place]
    return [file for file in found if file.is_file()]


def check(checkout: Path, steps: Steps) -> list[str]:
    """Run what is here on them, and say loudly what is not; return the names of what failed."""
    failed = []
    ours = files(checkout)
    for name, (arguments, remedy) in TOOLS.items():
        program = shutil.which(name)
        if program is None:
            say(f"NOT CHECKED: {len(ours)} Nix files with {name}, which is not here: {remedy}")
            continue
        done = subprocess.run(
            [program, *arguments, *map(str, ours)],
            stdout=subprocess.DEVNULL if name == "nix-instantiate" else None,
            stderr=subprocess.PIPE,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        if done.returncode:
            failed.append(name)
            print(done.stderr, file=sys.stderr)
        steps.done(f"{name}, {len(ours)} files{' FAILED' if done.returncode else ''}")
    return failed
