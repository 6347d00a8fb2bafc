"""Whether our Nix is Nix, and holds nothing that nobody uses; what can be told without nixpkgs.

Neither Debian nor PyPI has deadnix. Where there is a Rust, it is built once, into ``.dev/cache``.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from flashpods_dev.report import Steps, say

SECONDS: Final = 120
BUILD_SECONDS: Final = 900
DEADNIX: Final = "1.3.1"
PLACES: Final = ("flake.nix", "modules", "pkgs", "checks", "examples", "lab", "lib")
# Tool → its arguments, and how it is had where it is missing.
TOOLS: Final = {
    "nix-instantiate": (("--parse",), "apt-get install nix-bin"),
    "deadnix": (("--fail",), "install a Rust with cargo, or use the flake's devShell"),
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
        program = shutil.which(name) or (_deadnix(checkout / ".dev") if name == "deadnix" else None)
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


def _deadnix(dev: Path) -> str | None:
    """Return our own deadnix, built if need be, one builder at a time; None if it can't be."""
    home = dev / "cache" / f"deadnix-{DEADNIX}"
    home.parent.mkdir(parents=True, exist_ok=True)
    with (dev / "deadnix.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not home.is_dir():
            cargo = shutil.which("cargo")
            if cargo is None or not _build(cargo, home):
                return None
    return str(home / "bin" / "deadnix")


def _build(cargo: str, home: Path) -> bool:
    """Have cargo build it, with the versions of its own lock file, which have hashes."""
    say("building deadnix once: half a minute or more")
    with tempfile.TemporaryDirectory(dir=home.parent) as scratch:
        root = Path(scratch) / "root"
        words = ("install", "--quiet", "--locked", "--version", DEADNIX, "--root", str(root))
        try:
            done = subprocess.run(
                [cargo, *words, "--target-dir", f"{scratch}/target", "deadnix"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                timeout=BUILD_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            say(f"cargo install deadnix: not done in {BUILD_SECONDS} s")
            return False
        if done.returncode:
            say(f"cargo install deadnix: {done.stderr.strip()[-1000:]}")
            return False
        for old in home.parent.glob("deadnix-*"):
            shutil.rmtree(old)
        root.rename(home)
    return True
