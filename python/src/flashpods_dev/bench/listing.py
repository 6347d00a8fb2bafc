"""A page of 50 jobs at a million rows, beside the same rows fetched by plain sqlite3."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from pathlib import Path

from flashpods.adapters.sqlite.store import SqliteStore
from flashpods_dev.bench.report import Result, p50

ROWS = 1_000_000

FILL = """
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :rows)
INSERT INTO jobs (id, request_sha256, type, status, command, image, cpus, memory_gb,
                  timeout_minutes, created_at, started_at, completed_at, exit_code, warnings)
SELECT printf('%016x', i), 'x', 'worker', 'cleaned', 'make test', 'ubuntu:22.04', 2, 4, 30,
       '2026-11-24T09:31:26.123Z', '2026-11-24T09:31:27.123Z', '2026-11-24T09:32:26.123Z', 0, '[]'
FROM n
"""


def measure(scratch: Path, rounds: int) -> list[Result]:
    """Fill a database of the real schema, then take both in turn."""
    scratch.mkdir(parents=True, exist_ok=True)
    return asyncio.run(_measure(scratch / "million.db", rounds))


async def _measure(path: Path, rounds: int) -> list[Result]:
    store = await SqliteStore.open(path)
    with sqlite3.connect(path) as filler:
        filler.execute(FILL, {"rows": ROWS})
    filler.close()
    raw = sqlite3.connect(path)
    ours: list[float] = []
    theirs: list[float] = []
    cursor = ROWS // 2
    for _ in range(rounds):
        began = time.perf_counter()
        page = await store.page(statuses=None, limit=50, cursor=cursor)
        ours.append(time.perf_counter() - began)
        began = time.perf_counter()
        rows = raw.execute(
            "SELECT * FROM jobs WHERE seq < ? ORDER BY seq DESC LIMIT 50", (cursor,)
        ).fetchall()
        total = raw.execute("SELECT sum(n) FROM job_counts").fetchone()[0]
        theirs.append(time.perf_counter() - began)
        if len(page.jobs) != len(rows) or page.total != total:
            raise RuntimeError("the two lists differ")
    raw.close()
    await store.close()
    return [
        Result(
            name="list of 50 at a million rows",
            unit="ms",
            ours=p50(ours) * 1000,
            peer_name="plain sqlite3, same rows",
            peer=p50(theirs) * 1000,
            goal=1.5,
            at_most=True,
            note=f"p50 of {rounds}; in the process, without HTTP on either side",
        )
    ]
