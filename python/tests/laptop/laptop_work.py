"""What the laptop is at in the tests: small jobs, a large artifact, a tree to push."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from command_line import Laptop

from flashpods_dev.stack import MiniStack

SMALL = ("--cpus", "1", "--memory-gb", "1")
LINES = 400
MEGABYTES = 40


async def detached(laptop: Laptop, command: str) -> str:
    done = await laptop.run("run", "-d", "--no-files", *SMALL, "--", command)
    assert done.code == 0, done
    return done.out.strip()


def rows(stack: MiniStack, sql: str, *values: object) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(stack.layout.database, timeout=10)) as connection:
        return list(connection.execute(sql, values))


async def blob(laptop: Laptop) -> tuple[str, str]:
    """Run a job that leaves a file; return the job and the file's digest."""
    command = f"head -c {MEGABYTES}000000 /dev/urandom > /artifacts/blob; sha256sum /artifacts/blob"
    job = await detached(laptop, command)
    done = await laptop.run("attach", "--no-timestamps", job)
    assert done.code == 0, done
    return job, done.out.split()[0]


def tree(where: Path) -> dict[str, str]:
    """Make 60 files of 200 kB; return their digests."""
    where.mkdir()
    digests = {}
    for number in range(60):
        data = os.urandom(200_000)
        (where / f"f{number:02}").write_bytes(data)
        digests[f"f{number:02}"] = hashlib.sha256(data).hexdigest()
    return digests
