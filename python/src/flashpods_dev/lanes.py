"""Tiers that ``./dev test`` runs beside pytest, each by its own command, one after the other.

A machine has two cores and pytest uses one. ``tests/lanes`` has a test for each, which waits for
its end and fails with it, so that pytest's summary is that of the whole.
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

DIRECTORY = "FLASHPODS_TEST_LANES"
BESIDE = "FLASHPODS_BESIDE"  # set in a tier that runs so: its timings are those of a busy machine
TIERS: Final = {"lab": ("-m", "not long"), "attacks": ()}
"""Commands and their arguments. The lab is first: on a fresh machine it builds SPIRE, which is
nothing to have beside attacks that are measured."""
SECONDS = 1200  # for one, on a fresh machine
PARENT_DEATH = ("setpriv", "--pdeathsig", "TERM")


@contextmanager
def beside(checkout: Path, directory: Path) -> Iterator[dict[str, str]]:
    """Run the tiers meanwhile; give the variable that :func:`result` finds them by.

    They are ended, if they still run, at the end of the block.
    """
    directory.mkdir()
    locks = {tier: _locked(directory / f"{tier}.lock") for tier in TIERS}
    running: list[subprocess.Popen[bytes]] = []
    leaving = threading.Event()

    def work() -> None:
        for tier, lock in locks.items():
            with lock, (directory / f"{tier}.out").open("wb") as out:
                if leaving.is_set():
                    return
                child = subprocess.Popen(
                    [*PARENT_DEATH, str(checkout / "dev"), tier, *TIERS[tier]],
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
                (directory / f"{tier}.code").write_text(str(code))

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


def result(tier: str) -> tuple[int | None, str]:
    """Wait for a tier's end; return its exit code, None if it has none, and what it printed."""
    directory = Path(os.environ[DIRECTORY])
    with (directory / f"{tier}.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
    code = directory / f"{tier}.code"
    output = (directory / f"{tier}.out").read_text(errors="replace")
    return (int(code.read_text()) if code.exists() else None), output


def _locked(path: Path) -> IO[str]:
    """Return a file that holds its lock until it is closed: a lane that dies is seen as well."""
    file = path.open("w")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file
