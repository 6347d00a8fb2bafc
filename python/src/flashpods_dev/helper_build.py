"""The helper mounted into jobs and its test programs, built once for each state of the source."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from flashpods_dev.identity import go
from flashpods_dev.report import Steps, say

PLACE = Path("pkgs") / "flashpods-token"
FLAGS = ("-trimpath", "-buildvcs=false", "-ldflags=-s -w")  # the same file from the same source
KEPT = 3  # a stack that runs may still mount an older one
BUILD_SECONDS = 20 * 60


@dataclass(frozen=True, slots=True)
class Programs:
    """Where the programs are: the helper, a fake identity for tests, the benchmark's peer."""

    helper: Path
    fakes: Path
    rawfetch: Path


def ensure(checkout: Path) -> Programs:
    """Have them in ``.dev/cache``; quick when they are there, one builder at a time.

    Raises:
        StackError: there is no Go, a module is not to be had, or the build failed.
    """
    dev, source = checkout / ".dev", checkout / PLACE
    home = dev / "cache" / f"flashpods-token-{_key(source)}"
    home.parent.mkdir(parents=True, exist_ok=True)
    with (dev / "helper.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not home.is_dir():
            _build(dev, source, home)
    return Programs(home / "flashpods-token", home / "fakes", home / "rawfetch")


def toolchain_here(dev: Path) -> go.Go | None:
    """Return a Go if this machine has one, or ``.dev`` does; without one, None."""
    ours = dev / "cache" / f"go-{go.VERSION}"
    return go.find(dev) if shutil.which("go") or ours.exists() else None


def _key(source: Path) -> str:
    """Name what the programs depend on."""
    files = [*sorted(source.rglob("*.go")), source / "go.mod", source / "go.sum"]
    digest = hashlib.sha256("\n".join(FLAGS).encode())
    for file in files:
        if not file.name.endswith("_test.go"):
            digest.update(f"\n{file.relative_to(source)}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def _build(dev: Path, source: Path, home: Path) -> None:
    toolchain = go.find(dev)
    say("building the helper flashpods-token once: half a minute or more")
    steps = Steps()
    with tempfile.TemporaryDirectory(dir=home.parent) as scratch:
        out = Path(scratch) / "out"
        out.mkdir()
        toolchain.run(
            *("build", *FLAGS, "-o", f"{out}/", ".", "./internal/fakes", "./internal/rawfetch"),
            cwd=source,
            seconds=BUILD_SECONDS,
            env={"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly"},
        )
        for program in out.iterdir():
            program.chmod(0o755)
        out.chmod(0o755)  # jobs run it as another user
        out.rename(home)
    kept = sorted(home.parent.glob("flashpods-token-*"), key=lambda path: path.stat().st_mtime)
    for old in kept[:-KEPT]:
        shutil.rmtree(old)
    steps.done("helper flashpods-token")
