"""Tiers that ``./dev test`` runs beside pytest, each by its own command, one after the other.

A machine has two cores and one pytest uses one. ``tests/lanes`` has a test for each tier, which
waits for its end and fails with it, so that the last summary is that of the whole.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from flashpods_dev.identity import build as spire_build

DIRECTORY: Final = "FLASHPODS_TEST_LANES"
BESIDE: Final = "FLASHPODS_BESIDE"  # set in a tier that runs so: its timings are a busy machine's
NAMES: Final = ("lab", "attacks", "laptop-and-operator")
# As long as all the other tests of tests/system together.
APART: Final = tuple(
    f"tests/system/test_{name}.py"
    for name in (
        *("admin", "doctor", "operations_guide", "restore_drill", "upgrade"),
        *("cli", "mcp", "mcp_faults", "mcp_many", "mcp_protocol", "mcp_refusals"),
    )
)
NOT_RUN: Final = """\
NOT RUN: the scripts of checks/ on HOST and LAPTOP as the modules render them, because SPIRE is not
built here. ./dev lab builds it, in 9 minutes or more, and runs them; ./dev test does from then on.
"""
SECONDS: Final = 3600  # for one; five minutes, unless the machine is fresh or has other work
PARENT_DEATH: Final = ("setpriv", "--pdeathsig", "TERM")


def commands(dev: Path) -> dict[str, list[str]]:
    """Return each tier's command, as words for ``./dev``."""
    lab = ["-m", "not long"] if spire_build.built(dev) else ["--boundary"]
    everything = (["lab", *lab], ["attacks"], ["test", *APART])
    return dict(zip(NAMES, everything, strict=True))


@contextmanager
def beside(checkout: Path, directory: Path) -> Iterator[dict[str, str]]:
    """Run the tiers meanwhile; give the variable that :func:`result` finds them by.

    They are ended, if they still run, at the end of the block.
    """
    directory.mkdir()
    tiers = commands(checkout / ".dev")
    locks = {name: _locked(directory / f"{name}.lock") for name in tiers}
    if "--boundary" in tiers["lab"]:
        (directory / "lab.out").write_text(NOT_RUN)
    running: list[subprocess.Popen[bytes]] = []
    leaving = threading.Event()

    def work() -> None:
        for name, lock in locks.items():
            with lock, (directory / f"{name}.out").open("ab") as out:
                if leaving.is_set():
                    return
                child = subprocess.Popen(
                    [*PARENT_DEATH, str(checkout / "dev"), *tiers[name]],
                    stdout=out,
                    stderr=out,
                    env={**os.environ, BESIDE: "1"},
                )
                running.append(child)
                try:
                    code = child.wait(SECONDS)
                except subprocess.TimeoutExpired:
                    child.terminate()
                    child.wait()
                    code = 124  # as timeout(1) has it
                (directory / f"{name}.code").write_text(str(code))

    worker = threading.Thread(target=work, name="lanes")
    worker.start()
    try:
        yield {DIRECTORY: str(directory)}
    finally:
        leaving.set()
        for child in running:
            if child.poll() is None:
                child.terminate()
        worker.join()


def result(name: str) -> tuple[int | None, str]:
    """Wait for a tier's end; return its exit code, None if it has none, and what it printed."""
    directory = Path(os.environ[DIRECTORY])
    with (directory / f"{name}.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
    code = directory / f"{name}.code"
    output = (directory / f"{name}.out").read_text(errors="replace")
    return (int(code.read_text()) if code.exists() else None), output


def _locked(path: Path) -> IO[str]:
    """Return a file that holds its lock until it is closed: a lane that dies is seen as well."""
    file = path.open("w")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file
