"""The last 100 lines of a 50 MB log, beside tail(1) without its process start."""

from __future__ import annotations

import asyncio
import subprocess
import time
from pathlib import Path

from flashpods.adapters.files.logs import FileLogStore
from flashpods_dev.bench.report import Result, p50

LINE = "[12:34:56.789] some output of a build that is about eighty characters long, {:012d}\n"


def measure(scratch: Path, rounds: int) -> list[Result]:
    """Time the store's call; time tail(1) on the log less tail(1) on an empty file."""
    logs, capture = scratch / "logs", scratch / "capture"
    for path in (logs, capture):
        path.mkdir(parents=True)
    job_id = "b" * 16
    with (logs / f"{job_id}.log").open("w") as file:
        written = number = 0
        while written < 50 * 1024**2 - 4096:
            written += file.write(LINE.format(number))
            number += 1
    ours = asyncio.run(_ours(FileLogStore(logs, capture, log_bytes=50 * 1024**2), job_id, rounds))
    full = [_tail(logs / f"{job_id}.log") for _ in range(rounds)]
    empty = [_tail(Path("/dev/null")) for _ in range(rounds)]
    return [
        Result(
            name="tail of 100 lines, 50 MB log",
            unit="ms",
            ours=p50(ours) * 1000,
            peer_name="tail(1) less its start",
            peer=max(p50(full) - p50(empty), 1e-6) * 1000,
            goal=1.0,
            at_most=True,
            note=f"p50 of {rounds}",
        )
    ]


async def _ours(store: FileLogStore, job_id: str, rounds: int) -> list[float]:
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        tail = await store.tail(job_id, 100)
        times.append(time.perf_counter() - began)
        if tail is None or tail.lines != 100:
            raise RuntimeError(f"expected 100 lines, got {tail}")
    await store.close()
    return times


def _tail(path: Path) -> float:
    began = time.perf_counter()
    subprocess.run(["tail", "-n", "100", str(path)], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began
