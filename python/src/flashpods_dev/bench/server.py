"""A peer's server, up while it is measured."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from flashpods_dev.probe import listens

START_SECONDS = 20


@contextmanager
def serving(argv: Sequence[str], port: int) -> Iterator[None]:
    """Run a server until the block ends.

    Raises:
        RuntimeError: it does not listen on the port within :data:`START_SECONDS`.
    """
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as process:
        try:
            until = time.monotonic() + START_SECONDS
            while not listens(port):
                if time.monotonic() > until or process.poll() is not None:
                    raise RuntimeError(f"{argv[0]} does not listen on port {port}")
                time.sleep(0.05)
            yield
        finally:
            process.kill()
