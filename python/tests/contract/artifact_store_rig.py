"""The artifact store on disk, as the tests of hostile content and of trouble make it."""

from datetime import UTC, datetime
from pathlib import Path

from flashpods.adapters.files.artifacts import FileArtifactStore
from flashpods.jobs.model import Collected

AT = datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)
JOB = "0123456789abcdef"


def made(root: Path, *, file_bytes: int = 2**20, files: int = 200) -> FileArtifactStore:
    store = FileArtifactStore(root, file_bytes=file_bytes, job_bytes=2**24, max_files=files)
    store.check()
    return store


def names(collected: Collected) -> list[str]:
    return [a.name for a in collected.artifacts]
