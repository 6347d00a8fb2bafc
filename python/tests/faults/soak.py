"""``./dev soak``: full admission with random cancels, restarts and kills; then all invariants.

Flat means: from the first quarter's median to the last one's, the API's memory has grown by less
than 20 %, its threads and descriptors by less than 10. Each start of the API is its own series.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rig import Rig

from flashpods_dev.machine import inside

ENDS = ("completed", "failed", "timed_out", "cancelled", "cleaning", "cleaned")
RESTART_EVERY = 90.0  # seconds; a third of them by SIGKILL


def sample(rig: Rig) -> dict[str, float]:
    """Return memory in MiB, threads, descriptors of the API, and the database's size in MiB."""
    process = Path(f"/proc/{rig.stack.api.pid}")
    status = dict(x.split(":", 1) for x in (process / "status").read_text().splitlines())
    database = rig.stack.layout.database
    return {
        "rss_mib": int(status["VmRSS"].split()[0]) / 1024,
        "threads": int(status["Threads"]),
        "fds": len(list((process / "fd").iterdir())),
        "database_mib": sum(p.stat().st_size for p in database.parent.iterdir()) / 1024**2,
    }


def growth(series: list[dict[str, float]], key: str) -> tuple[float, float]:
    """Return the medians of the first and the last quarter."""
    quarter = max(1, len(series) // 4)
    first, last = series[:quarter], series[-quarter:]
    return tuple(statistics.median(s[key] for s in part) for part in (first, last))  # type: ignore[return-value]  # two parts


async def feed(rig: Rig, chance: random.Random, end: float) -> None:
    """Keep the host full: post, and now and then cancel."""
    while time.monotonic() < end:
        upload = await rig.upload() if chance.random() < 0.3 else None
        more = {"files_id": upload} if upload else {}
        job_id = await rig.count(chance.randrange(1, 60), chance.choice((0, 0.02)), **more)
        if job_id is None:
            await asyncio.sleep(0.2)
        elif chance.random() < 0.15:
            await asyncio.sleep(chance.random())
            await rig.ask("DELETE", f"/jobs/{job_id}")
            rig.lines.pop(job_id, None)


async def soak(rig: Rig, minutes: float) -> list[str]:
    """Run it and return what is wrong."""
    chance = random.Random(19)
    end = time.monotonic() + 60 * minutes
    broken: list[str] = []
    last: list[dict[str, float]] = []
    long = max(60 * minutes / 2, RESTART_EVERY)  # the last series gets half of the time

    async def disturb() -> None:
        while time.monotonic() + long + RESTART_EVERY < end:
            await asyncio.sleep(RESTART_EVERY * chance.uniform(0.5, 1.5))
            await asyncio.to_thread(
                rig.stack.api.kill if chance.random() < 0.33 else rig.stack.api.terminate
            )
            await rig.start()
            last.clear()

    async def watch() -> None:
        while time.monotonic() < end:
            await asyncio.sleep(1)
            try:
                last.append(sample(rig))
            except OSError:
                continue  # between two lives

    async with rig.readers():
        await asyncio.gather(*(feed(rig, chance, end) for _ in range(6)), disturb(), watch())
    took = await rig.recovered(time.monotonic(), 60)
    broken += await rig.verdict(took)
    figures: dict[str, Any] = {"jobs": len(rig.jobs), "samples": len(last)}
    for key in last[-1]:
        before, after = figures[key] = growth(last[10:] or last, key)
        most = 1.2 * before if key == "rss_mib" else before + 10
        if key != "database_mib" and after > most:
            broken.append(f"{key} grew from {before:.0f} to {after:.0f}")
    per_job = 1024**2 * last[-1]["database_mib"] / max(1, len(rig.jobs))
    figures["database_bytes_per_job"] = round(per_job)
    print(json.dumps({"broken": broken, **figures}, indent=2))  # noqa: T201 - its result
    Path(os.environ["FLASHPODS_FAULTS_BOARD"]).write_text(json.dumps(figures) + "\n")  # noqa: ASYNC240 - at its end
    return broken


async def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev soak")
    parser.add_argument("--minutes", type=float, default=60)
    args = parser.parse_args()
    state = Path(tempfile.mkdtemp(prefix="s-", dir=os.environ["FLASHPODS_TEST_TMP"]))
    state.chmod(0o755)  # noqa: ASYNC240 - at its start
    rig = Rig(state, inside())
    try:
        rig.stack.start()
        async with rig.connected():
            return 1 if await soak(rig, args.minutes) else 0
    finally:
        rig.stack.stop()
        shutil.rmtree(state, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
