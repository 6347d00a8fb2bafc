"""``./dev soak``: a day in little, at full admission, with random cancels and restarts.

Jobs are posted as fast as the host admits them, some with uploads; some are cancelled. The reaper
runs with retention times of minutes, so that every job goes through its whole life, to ``cleaned``.
In the first half the API and the reaper are restarted at random, a third of the time by SIGKILL; in
the second half they are left alone, and their memory, descriptors and threads must be flat:

- memory: the median of the last quarter is at most 10 % above that of the first one;
- descriptors and threads: at most 5 more;
- the database: it holds every row for ever, so it grows with the jobs, by the same for each: the
  second half of the series adds at most half as much again per job as its first half; its WAL is
  bounded by the writer's ``journal_size_limit``.

Every log is read when its job has ended; all other invariants are judged at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from checker import Evidence, percentile, violations
from rig import Rig

from flashpods_dev.machine import inside
from flashpods_dev.service import Service, twins

FEEDERS = 6
RESTART_EVERY = 60.0  # seconds, on average
MEMORY_GROWTH = 1.1
COUNT_GROWTH = 5
DATABASE_GROWTH = 1.5
WAL_MIB = 80.0  # the writer's journal_size_limit of 64 MiB, and what one checkpoint may lag behind
SETTINGS: dict[str, Any] = {
    "uploads": {"finalize_within_seconds": 60, "use_within_seconds": 120},
    "output": {"artifact_retention_seconds": 60, "log_retention_seconds": 120},
    "cleanup": {"every_seconds": 10},
}


@dataclass
class Course:
    """What happens while it runs."""

    chance: random.Random
    end: float
    calm: float  # from then on nothing is restarted
    broken: list[str] = field(default_factory=list)
    series: list[dict[str, float]] = field(default_factory=list)  # the calm part alone
    restarts: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    refused: int = 0  # posts, since the host was full or the API away
    back: float = 0.0  # the longest time from the start of a killed API to its answer
    checks: asyncio.Queue[str] = field(default_factory=asyncio.Queue)

    def note(self, lines: list[str]) -> None:
        """Keep what is wrong, and say it at once: the end is far."""
        self.broken += lines
        for line in lines:
            print(f"soak: {line}", file=sys.stderr, flush=True)  # noqa: T201 - its progress


def usage(name: str, pid: int) -> dict[str, float]:
    """Return memory in MiB, threads and descriptors of a process."""
    process = Path(f"/proc/{pid}")
    status = dict(x.split(":", 1) for x in (process / "status").read_text().splitlines())
    return {
        f"{name}_rss_mib": int(status["VmRSS"].split()[0]) / 1024,
        f"{name}_threads": int(status["Threads"]),
        f"{name}_fds": len(list((process / "fd").iterdir())),
    }


def sample(rig: Rig) -> dict[str, float]:
    """Return the usage of our two processes and of the engine, and the sizes of the database."""
    database = rig.stack.layout.database
    wal = database.with_name(database.name + "-wal")
    engine = rig.stack.podman.pid
    return {
        **usage("api", rig.stack.api.pid),
        **usage("cleanup", rig.stack.cleanup.pid),
        **usage("podman", next(iter(twins(engine)), engine)),
        "database_mib": database.stat().st_size / 1024**2,
        "wal_mib": wal.stat().st_size / 1024**2 if wal.exists() else 0.0,
        "jobs": len(rig.jobs),
    }


# ------------------------------------------------------------------ what goes on


async def feed(rig: Rig, course: Course) -> None:
    """Keep the host full: post, and now and then cancel."""
    chance = course.chance
    while time.monotonic() < course.end:
        upload = await rig.upload() if chance.random() < 0.3 else None
        more: dict[str, Any] = {"files_id": upload} if upload else {}
        # Now CPUs are short, now memory.
        more["memory_gb"] = chance.choice((1, 1, 2, 4))
        job_id = await rig.count(chance.randrange(1, 60), chance.choice((0, 0.02)), **more)
        if job_id is None:
            course.refused += 1
            await asyncio.sleep(0.2)  # the host is full, or the API is away
            continue
        if chance.random() < 0.15:
            await asyncio.sleep(chance.random())
            await rig.cancel(job_id)
        course.checks.put_nowait(job_id)


async def check(rig: Rig, course: Course) -> None:
    """Read the logs of jobs that have ended; for ever."""
    while True:
        job_id = await course.checks.get()
        try:
            row = await rig.ended(job_id, seconds=90)
            course.ends[f"{row['status']} {row.get('error') or ''}".strip()] += 1
            log = await rig.log_of(job_id, whole=row["status"] == "completed")
            course.note(violations(Evidence(capacity=(0, 0), logs={job_id: log})))
        except AssertionError as e:
            course.note([str(e)[:300]])
        finally:
            rig.lines.pop(job_id, None)
            course.checks.task_done()


async def disturb(rig: Rig, course: Course) -> None:
    """Restart the API or the reaper now and then, until the calm begins."""
    chance = course.chance
    while True:
        await asyncio.sleep(RESTART_EVERY * chance.uniform(0.2, 1.8))
        if time.monotonic() > course.calm:
            return
        service: Service = rig.stack.api if chance.random() < 0.75 else rig.stack.cleanup
        how = "SIGKILL" if chance.random() < 0.33 else "SIGTERM"
        await asyncio.to_thread(service.kill if how == "SIGKILL" else service.terminate)
        course.restarts[f"{service.name} {how}"] += 1
        if how == "SIGKILL":  # which may fail what is being launched; an orderly stop fails nothing
            found = rig.see.rows("SELECT id FROM jobs WHERE status = 'starting'")
            rig.excused |= {job_id for (job_id,) in found}
        begun = time.monotonic()
        await asyncio.to_thread(service.start)
        if service is rig.stack.api:
            course.back = max(course.back, time.monotonic() - begun)


async def watch(rig: Rig, course: Course) -> None:
    """Take samples, once they are of one life; and the engine's record before it is cut."""
    while time.monotonic() < course.end:
        await asyncio.sleep(2)
        await asyncio.to_thread(rig.see.note_created)
        if time.monotonic() > course.calm + 30:  # caches fill first
            course.series.append(await asyncio.to_thread(sample, rig))


# ------------------------------------------------------------------ the verdict


def ends_of(series: list[dict[str, float]], key: str) -> tuple[float, float]:
    """Return the medians of the first and the last quarter."""
    quarter = max(1, len(series) // 4)
    first, last = series[:quarter], series[-quarter:]
    return statistics.median(s[key] for s in first), statistics.median(s[key] for s in last)


def flatness(series: list[dict[str, float]]) -> list[str]:
    """Return what of our processes is not flat."""
    broken = []
    for key in (k for k in series[0] if k.startswith(("api_", "cleanup_"))):
        before, after = ends_of(series, key)
        most = MEMORY_GROWTH * before if key.endswith("rss_mib") else before + COUNT_GROWTH
        if after > most:
            broken.append(f"{key} grew from {before:.1f} to {after:.1f}")
    if (wal := max(s["wal_mib"] for s in series)) > WAL_MIB:
        broken.append(f"the WAL grew to {wal:.0f} MiB")
    first, second = (bytes_per_job(part) for part in halves(series))
    if second > DATABASE_GROWTH * first:
        broken.append(f"a job cost {first:.0f} bytes of database, later {second:.0f}")
    return broken


def halves(series: list[dict[str, float]]) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    middle = len(series) // 2
    return series[: middle + 1], series[middle:]


def bytes_per_job(series: list[dict[str, float]]) -> float:
    """Return what the database grew by, a job."""
    grown = series[-1]["database_mib"] - series[0]["database_mib"]
    return 1024**2 * grown / max(1.0, series[-1]["jobs"] - series[0]["jobs"])


def tables(database: Path, jobs: int) -> dict[str, int]:
    """Return the bytes a job of each table and index, the largest first (dbstat)."""
    sql = "SELECT name, sum(pgsize) FROM dbstat GROUP BY name ORDER BY 2 DESC LIMIT 12"
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        return {name: round(size / max(1, jobs)) for name, size in connection.execute(sql)}


def figures(rig: Rig, course: Course, recovery: float) -> dict[str, Any]:
    """Return what the report has."""
    series = course.series
    rows = dict(rig.see.rows("SELECT status, count(*) FROM jobs GROUP BY status"))
    first, second = (bytes_per_job(part) for part in halves(series))
    return {
        "jobs": len(rig.jobs),
        "uploads": len(rig.uploads),
        "refused": course.refused,
        "ended": dict(course.ends.most_common()),
        "rows": rows,
        "restarts": dict(course.restarts),
        "api_back_seconds": round(course.back, 2),
        "recovery_seconds": round(recovery, 2),
        "reads": len(rig.reads),
        "read_p99_seconds": round(percentile(rig.reads, 0.99), 3),
        "samples": len(series),
        "first_and_last_quarter": {
            key: [round(value, 1) for value in ends_of(series, key)] for key in series[0]
        },
        "highest": {key: round(max(s[key] for s in series), 1) for key in series[0]},
        "database_bytes_per_job": [round(first), round(second)],
        "database_bytes_per_job_by_table": tables(rig.stack.layout.database, len(rig.jobs)),
    }


async def soak(rig: Rig, minutes: float) -> list[str]:
    """Run it and return what is wrong."""
    now = time.monotonic()
    course = Course(random.Random(19), now + 60 * minutes, now + 30 * minutes)
    async with asyncio.TaskGroup() as group, rig.readers():
        checkers = [group.create_task(check(rig, course)) for _ in range(FEEDERS)]
        feeders = [group.create_task(feed(rig, course)) for _ in range(FEEDERS)]
        others = [disturb(rig, course), watch(rig, course)]
        await asyncio.gather(*feeders, *others)
        await course.checks.join()
        for task in checkers:
            task.cancel()
    took = await rig.recovered(time.monotonic(), 60)
    await asyncio.to_thread(rig.stack.cleanup.terminate)
    broken = course.broken + await rig.verdict(took) + flatness(course.series)
    found = {"broken": broken, **figures(rig, course, took)}
    print(json.dumps(found, indent=2))  # noqa: T201 - its result
    board = Path(os.environ["FLASHPODS_FAULTS_BOARD"])
    board.write_text(json.dumps({**found, "series": course.series}) + "\n")  # noqa: ASYNC240 - at its end
    return broken


async def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev soak")
    parser.add_argument("--minutes", type=float, default=60)
    args = parser.parse_args()
    state = Path(tempfile.mkdtemp(prefix="s-", dir=os.environ["FLASHPODS_TEST_TMP"]))
    state.chmod(0o755)  # noqa: ASYNC240 - at its start
    rig = Rig(state, inside(), SETTINGS, parts=("podman", "api", "cleanup"))
    try:
        await asyncio.to_thread(rig.stack.start)
        async with rig.connected():
            return 1 if await soak(rig, args.minutes) else 0
    finally:
        rig.stack.stop()
        shutil.rmtree(state, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
