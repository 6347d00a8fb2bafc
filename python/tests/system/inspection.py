"""What the system tests look at behind the API: Podman's containers and the database's rows."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

from running_api import RunningApi
from support import true_soon

ROOMY = {"development": {"pretend_cpus": 64, "pretend_memory_gb": 256}}


def containers(api: RunningApi) -> list[str]:
    """Return the names of the job containers that Podman knows."""
    done = api.stack.run_podman("ps", "-a", "--format", "{{.Names}}")
    assert done.returncode == 0, done.stderr
    return sorted(name for name in done.stdout.split() if name.startswith("job_"))


async def no_containers(api: RunningApi) -> None:
    """Wait for it: a job's container goes just after its last state."""
    await true_soon(lambda: containers(api) == [], "no container is left")


def rows(api: RunningApi, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(api.db)) as connection:
        return connection.execute(sql).fetchall()
