"""A database with jobs in it, and settings whose directories are a test's own."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flashpods.adapters.sqlite.store import SqliteStore
from flashpods.config import Settings
from flashpods.jobs.model import Capacity, Grant, JobType, NewJob

NOW = datetime(2026, 11, 26, 2, 0, tzinfo=UTC)
HOST = Capacity(cpus=10_000, memory_gb=10_000)


def settings_in(root: Path, **backup: Any) -> Settings:
    """Return settings below a directory, and make what a host would have."""
    trees = {
        key: root / key
        for key in ("transfers", "finalized", "work", "artifacts", "capture", "logs")
    }
    for path in (*trees.values(), root / "db"):
        path.mkdir(parents=True, exist_ok=True)
    paths = {key: str(path) for key, path in trees.items()}
    return Settings(
        paths={"database": str(root / "db" / "flashpods.db"), **paths},
        backup={"directory": str(root / "backups"), **backup},
    )


def new_job(number: int, **changes: Any) -> NewJob:
    """Return a small worker."""
    fields: dict[str, Any] = {
        "id": f"j{number:015d}",
        "client_job_id": None,
        "request_sha256": "a" * 64,
        "type": JobType.WORKER,
        "command": "make",
        "task": None,
        "context": None,
        "git_branch": None,
        "files_id": None,
        "image": "ubuntu:22.04",
        "grant": Grant(cpus=1, memory_gb=1, timeout_minutes=1),
    }
    return NewJob(**fields | changes)


async def submit(store: SqliteStore, *numbers: int, **changes: Any) -> None:
    """Accept jobs of those numbers."""
    for number in numbers:
        await store.submit(new_job(number, **changes), capacity=HOST, at=NOW)
