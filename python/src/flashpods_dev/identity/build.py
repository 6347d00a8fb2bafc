"""SPIRE's two programs, built once from its Go module and kept in ``.dev/cache``."""

from __future__ import annotations

import fcntl
import json
import shutil
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from flashpods_dev.identity import go
from flashpods_dev.machine import StackError
from flashpods_dev.report import Steps, say

VERSION = "1.13.0"
MODULE = "github.com/spiffe/spire"
SUM = "h1:xqpaVDwgmyRKw5yDs8xVRi5wM6nChXjLXxjDcSpA/rw="  # of the module's zip, as in a go.sum
BUILD_SECONDS = 45 * 60
PROGRESS_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Spire:
    """Where the programs are."""

    server: Path
    agent: Path


def built(dev: Path) -> bool:
    """Return whether :func:`ensure` has nothing to build."""
    spire = _place(dev)
    return spire.server.exists() and spire.agent.exists()


def _place(dev: Path) -> Spire:
    home = dev / "cache" / f"spire-{VERSION}"
    return Spire(server=home / "spire-server", agent=home / "spire-agent")


def ensure(dev: Path) -> Spire:
    """Have them; quick when they are there, one builder at a time.

    Raises:
        StackError: there is no Go, the module is not what it was, or the build failed.
    """
    spire = _place(dev)
    home = spire.server.parent
    home.parent.mkdir(parents=True, exist_ok=True)
    with (dev / "spire.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not built(dev):
            _build(dev, home)
    return spire


def _build(dev: Path, home: Path) -> None:
    if shutil.which("gcc") is None:
        raise StackError("SPIRE's server needs a C compiler: apt-get install gcc libc6-dev")
    toolchain = go.find(dev)
    say(f"building SPIRE {VERSION} once, into {home}: 6 minutes or more on two cores")
    steps = Steps()
    with tempfile.TemporaryDirectory(dir=home.parent) as scratch:
        source = _source(toolchain, Path(scratch))
        steps.done("SPIRE's source")
        out = Path(scratch) / "out"
        out.mkdir()
        with _Progress("SPIRE"):
            # In the module's own directory: its go.mod and go.sum say what everything is.
            toolchain.run(
                *("build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", f"{out}/"),
                *("./cmd/spire-server", "./cmd/spire-agent"),
                cwd=source,
                seconds=BUILD_SECONDS,
                env={"CGO_ENABLED": "1", "GOFLAGS": "-mod=readonly"},
            )
        for program in out.iterdir():
            program.chmod(0o755)
        shutil.rmtree(home, ignore_errors=True)
        out.rename(home)
        home.chmod(0o755)
    steps.done(f"SPIRE {VERSION}")


def _source(toolchain: go.Go, scratch: Path) -> Path:
    """Download the module; return its directory.

    Raises:
        StackError: its content is not the one that was built before.
    """
    answer = toolchain.run(
        "mod", "download", "-json", f"{MODULE}@v{VERSION}", cwd=scratch, seconds=600
    )
    found = json.loads(answer)
    if found["Sum"] != SUM:
        raise StackError(f"{MODULE} {VERSION} has the sum {found['Sum']}, not {SUM}")
    return Path(found["Dir"])


class _Progress:
    """Says every half minute that a long step still runs."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._over = threading.Event()
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(PROGRESS_SECONDS):
            say(f"still building {self._what}: {time.monotonic() - self._began:.0f} s")
