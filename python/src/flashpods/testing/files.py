"""Stand-ins for the file adapters, in a temporary directory: no namespaces, no hostile input.

They keep the ports' contracts for well-behaved trees; ``tests/contract`` runs one suite against
these and the real ones.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from flashpods.adapters.files.ids import is_job_id, is_upload_id
from flashpods.adapters.files.tarstream import tar_chunks
from flashpods.errors import NotFound
from flashpods.jobs.model import Artifact, Collected, Job
from flashpods.jobs.names import UPLOAD_ID, job_id, valid_artifact_name
from flashpods.ports import ContainerState, DiskFill, DiskUse, TreeSize, TreeTooLarge

__all__ = ["FakeArtifactStore", "FakeDiskGauge", "FakeDiskMeter", "FakeWorkspaces"]


class FakeArtifactStore:
    """A :class:`flashpods.ports.ArtifactStore` that copies."""

    def __init__(
        self, root: Path, *, file_bytes: int = 2**30, job_bytes: int = 2**31, max_files: int = 200
    ) -> None:
        """Build it over an empty directory; set ``fail_with`` to a code to make collection fail."""
        self._root = root
        self._file_bytes = file_bytes
        self._job_bytes = job_bytes
        self._max_files = max_files
        self._collected: dict[str, Collected] = {}
        self.fail_with: str | None = None

    def _staging(self, job: str) -> Path:
        return self._root / "staging" / job_id(job)

    def _final(self, job: str) -> Path:
        return self._root / "final" / job_id(job)

    async def prepare(self, job: str) -> Path:
        """Make the staging directory."""
        self._staging(job).mkdir(parents=True, exist_ok=True)
        return self._staging(job)

    async def collect(self, job: str, *, at: datetime) -> Collected:
        """Copy what is staged."""
        if job in self._collected:
            return self._collected[job]
        staging, final = self._staging(job), self._final(job)
        if self.fail_with is not None:
            return Collected(error=self.fail_with)
        if not staging.is_dir():
            return Collected(error="artifact_copy_container_gone", warnings=["artifacts: gone"])
        final.mkdir(parents=True)
        result = Collected()
        over: list[str] = []
        files = size = 0
        for entry in sorted(staging.iterdir()):
            inner = [p for p in entry.rglob("*") if p.is_file()] if entry.is_dir() else [entry]
            sizes = [p.stat().st_size for p in inner if p.exists()]
            inside = entry.resolve().is_relative_to(staging.resolve())
            if not valid_artifact_name(entry.name) or not inside or not entry.exists():
                result.warnings.append(f"artifacts: skipped: {entry.name!r}")
            elif (
                max(sizes, default=0) > self._file_bytes
                or size + sum(sizes) > self._job_bytes
                or files + len(sizes) > self._max_files
            ):
                over.append(entry.name)
            else:
                files, size = files + len(sizes), size + sum(sizes)
                result.artifacts.append(_take(entry, final / entry.name, sum(sizes), at))
        if over:
            result.warnings.append(f"artifacts: left out, beyond the limits: {', '.join(over)}")
        error = "artifact_limit_exceeded" if over else None
        done = Collected(artifacts=result.artifacts, warnings=result.warnings, error=error)
        self._collected[job] = done
        shutil.rmtree(staging)
        return done

    async def open(self, job: str, name: str) -> tuple[BinaryIO, int]:
        """Open a collected file."""
        path = self._final(job) / name
        if not valid_artifact_name(name) or not path.is_file():
            raise NotFound(f"no artifact {name!r}", code="artifact_not_found")
        return BytesIO(path.read_bytes()), path.stat().st_size

    async def tar(self, job: str, name: str) -> Iterator[bytes]:
        """Pack a collected directory."""
        path = self._final(job) / name
        if not valid_artifact_name(name) or not path.is_dir():
            raise NotFound(f"no artifact {name!r}", code="artifact_not_found")
        return tar_chunks(os.open(path, os.O_RDONLY | os.O_DIRECTORY), name)

    async def delete(self, job: str) -> None:
        """Delete all of a job."""
        self._collected.pop(job, None)
        for path in (self._staging(job), self._final(job)):
            shutil.rmtree(path, ignore_errors=True)

    async def stored(self) -> list[str]:
        """Return the jobs with files."""
        found = {*_names(self._root / "staging"), *_names(self._root / "final")}
        return sorted(filter(is_job_id, found))

    async def staged(self) -> list[str]:
        """Return the jobs with staged files."""
        return list(filter(is_job_id, _names(self._root / "staging")))

    async def discard_staged(self, job: str) -> None:
        """Delete staged files."""
        shutil.rmtree(self._staging(job), ignore_errors=True)


def _take(source: Path, target: Path, size: int, at: datetime) -> Artifact:
    if source.is_dir():
        shutil.copytree(source, target)
        return Artifact(
            name=source.name, type="directory", size_bytes=size, sha256=None, created_at=at
        )
    shutil.copyfile(source, target)
    sha256 = hashlib.sha256(target.read_bytes()).hexdigest()
    return Artifact(name=source.name, type="file", size_bytes=size, sha256=sha256, created_at=at)


class FakeWorkspaces:
    """A :class:`flashpods.ports.Workspaces` over three directories of ours."""

    def __init__(self, root: Path) -> None:
        """Build it over an empty directory; write trees into :attr:`transfers` as rsync would."""
        self.transfers = root / "transfers"
        self.finalized_trees = root / "finalized"
        self.work = root / "work"
        for path in (self.transfers, self.finalized_trees, self.work):
            path.mkdir(parents=True, exist_ok=True)

    async def finalize(self, upload_id: str, *, max_bytes: int) -> TreeSize:
        """Measure and move."""
        source, target = self.transfers / upload_id, self.finalized_trees / upload_id
        tree = source if source.is_dir() else target
        if not UPLOAD_ID.match(upload_id) or not tree.is_dir():
            raise NotFound(f"no tree of {upload_id!r}", code="upload_not_found")
        files = [p for p in tree.rglob("*") if p.is_symlink() or p.is_file()]
        size = sum(p.lstat().st_size for p in files if not p.is_symlink())
        if tree == source:
            if size > max_bytes:
                raise TreeTooLarge(upload_id)
            source.rename(target)
        return TreeSize(size_bytes=size, file_count=len(files))

    async def copy(self, upload_id: str, target_id: str) -> None:
        """Copy a finalized tree."""
        source, target = (self.finalized_trees / name for name in (upload_id, target_id))
        if not (UPLOAD_ID.match(upload_id) and source.is_dir()):
            raise NotFound(f"no tree of {upload_id!r}", code="upload_not_found")
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target, symlinks=True)

    async def claim(self, upload_id: str | None, job: str) -> Path | None:
        """Move to the job."""
        target = self.work / job_id(job)
        if upload_id is None:
            target.mkdir(exist_ok=True)
        elif not target.is_dir():
            source = self.finalized_trees / upload_id
            if not UPLOAD_ID.match(upload_id) or not source.is_dir():
                return None
            source.rename(target)
        return target

    async def discard_upload(self, upload_id: str) -> None:
        """Delete an upload."""
        for parent in (self.transfers, self.finalized_trees):
            shutil.rmtree(parent / upload_id, ignore_errors=True)

    async def discard(self, job: str) -> bool:
        """Delete a workspace."""
        shutil.rmtree(self.work / job_id(job), ignore_errors=True)
        return True

    async def keep_as_base(self, job: str, project: str, *, keep: int) -> None:
        """Move to the bases."""
        source, bases = self.work / job_id(job), self.transfers / ".bases"
        bases.mkdir(exist_ok=True)
        if not source.is_dir():
            return
        shutil.rmtree(bases / project, ignore_errors=True)
        source.rename(bases / project)
        aged = sorted(bases.iterdir(), key=lambda p: p.stat().st_ctime_ns, reverse=True)
        for old in aged[keep:]:
            shutil.rmtree(old)

    async def base(self, project: str) -> str | None:
        """Return the base."""
        return f"/.bases/{project}" if (self.transfers / ".bases" / project).is_dir() else None

    async def transferring(self) -> list[tuple[str, datetime]]:
        """List the module."""
        return [
            (name, _moved(self.transfers / name))
            for name in _names(self.transfers)
            if is_upload_id(name)
        ]

    async def finalized(self, *, before: datetime | None = None) -> list[str]:
        """List finalized trees."""
        found = filter(is_upload_id, _names(self.finalized_trees))
        return [i for i in found if before is None or _moved(self.finalized_trees / i) < before]

    async def claimed(self) -> list[str]:
        """List workspaces."""
        return list(filter(is_job_id, _names(self.work)))

    async def sweep_spares(self, *, before: datetime) -> int:
        """Delete nothing: we make no spares."""
        del before
        return 0

    async def drop_bases(self, *, before: datetime) -> int:
        """Delete old bases."""
        bases = self.transfers / ".bases"
        old = [bases / name for name in _names(bases) if _moved(bases / name) < before]
        for path in old:
            shutil.rmtree(path)
        return len(old)


def _moved(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_ctime, UTC)


def _names(path: Path) -> list[str]:
    return sorted(p.name for p in path.iterdir()) if path.is_dir() else []


class FakeDiskGauge:
    """A :class:`flashpods.ports.DiskGauge` that says what it is told."""

    def __init__(self, paths: Iterable[Path] = (), *, used: float = 0.0) -> None:
        """Build it: each path is ``used`` full; change :attr:`fractions` at will."""
        self.fractions: dict[str, float] = {str(path): used for path in paths}

    def usage(self) -> dict[str, float]:
        """Return the fractions."""
        return dict(self.fractions)


class FakeDiskMeter:
    """A :class:`flashpods.ports.DiskMeter` that says what it is told: one device, number 1."""

    def __init__(self, *, total: int = 2**40) -> None:
        """Build it over an empty disk; change :attr:`uses` and :attr:`fill` at will."""
        self.uses: dict[str, DiskUse] = {}  # by job
        self.fill = DiskFill(bytes_used=0, bytes_total=total, entries_used=0, entries_total=0)
        self.fail_with: Exception | None = None
        self.measured: list[str] = []

    def fills(self) -> dict[int, DiskFill]:
        """Return the one."""
        return {1: self.fill}

    async def held(self, job: Job, container: ContainerState, *, most: int) -> DiskUse:
        """Return what was set."""
        del container, most
        self.measured.append(job.id)
        if self.fail_with is not None:
            raise self.fail_with
        return self.uses.get(job.id, DiskUse(where={}, entries=0))
