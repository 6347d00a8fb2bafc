"""The last 100 lines of a 50 MB log, beside tail(1) without its process start."""

from __future__ import annotations

import asyncio
import subprocess
import time
from pathlib import Path

from flashpods.adapters.files.logs import FileLogStore
from flashpods_dev.bench.report import Result, p50

FILES = 1000  # of one call of tail, so that its start is nothing beside its work
TAILS = 40  # calls of it, each between two series of ours: both meet the same machine
LINE = "[12:34:56.789] some output of a build that is about eighty characters long, {:012d}\n"


def measure(scratch: Path, rounds: int) -> list[Result]:
    """Time the store's call, and tail(1) for one of many files in one process."""
    logs, capture = scratch / "logs", scratch / "capture"
    for path in (logs, capture):
        path.mkdir(parents=True)
    job_id = "b" * 16
    with (logs / f"{job_id}.log").open("w") as file:
        written = number = 0
        while written < 50 * 1024**2 - 4096:
            written += file.write(LINE.format(number))
            number += 1
    store = FileLogStore(logs, capture, log_bytes=50 * 1024**2)
    ours, theirs = asyncio.run(_both(store, logs, job_id, rounds))
    return [
        Result(
            name="tail of 100 lines, 50 MB log",
            unit="ms",
            ours=p50(ours) * 1000,
            peer_name="tail(1), without its start",
            peer=p50(theirs) * 1000,
            goal=1.0,
            at_most=True,
            note=f"p50 of {len(ours)} and {len(theirs)}",
        )
    ]


async def _both(
    store: FileLogStore, logs: Path, job_id: str, rounds: int
) -> tuple[list[float], list[float]]:
    ours, theirs = [], []
    for _ in range(TAILS):
        for _ in range(rounds):
            began = time.perf_counter()
            tail = await store.tail(job_id, 100)
            ours.append(time.perf_counter() - began)
            if tail is None or tail.lines != 100:
                raise RuntimeError(f"expected 100 lines, got {tail}")
        theirs.append(_tail(logs / f"{job_id}.log"))
    await store.close()
    return ours, theirs


def _tail(path: Path) -> float:
    """Return what tail takes for one more file: the difference of many and one, divided."""
    return (_tails(path, FILES) - _tails(path, 1)) / (FILES - 1)


def _tails(path: Path, count: int) -> float:
    argv = ["tail", "-q", "-n", "100", *[str(path)] * count]
    began = time.perf_counter()
    subprocess.run(argv, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began
