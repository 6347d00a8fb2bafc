"""The jobs' artifacts on disk.

::

    <root>/.staging/<job>      what the container sees as /artifacts
    <root>/.collecting/<job>   a collection at work; worthless after a crash
    <root>/.manifests/<job>    what the collection found, written before the commit
    <root>/<job>               the collected names; its appearance by rename is the commit
    <root>/.rm-<job>           on its way out

A collection that was killed before the commit starts again from the staging directory, which only
goes after the commit; one killed after it answers from the manifest.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from io import FileIO
from pathlib import Path
from typing import BinaryIO, Final, cast

from pydantic import TypeAdapter, ValidationError

from flashpods import failpoints
from flashpods.adapters.files import tree_tool
from flashpods.adapters.files.collect import (
    DISK,
    FAILED,
    GONE,
    PERMISSION,
    ArtifactLimits,
    Collector,
    DiskFull,
)
from flashpods.adapters.files.ids import is_job_id
from flashpods.adapters.files.offload import DISK_FULL, Budget, Stopped, discard_tree, storage
from flashpods.adapters.files.openat2 import open_beneath
from flashpods.adapters.files.tarstream import tar_chunks
from flashpods.adapters.files.trees import ASIDE, open_dir, open_path
from flashpods.config_base import ConfigError
from flashpods.errors import NotFound, Unavailable, cut
from flashpods.jobs.model import Collected
from flashpods.jobs.names import JOB_ID, job_id, valid_artifact_name

STAGING: Final = ".staging"
COLLECTING: Final = ".collecting"
MANIFESTS: Final = ".manifests"
DEFAULT_SECONDS: Final = 600.0
DROP_SECONDS: Final = 30.0  # for what a collection leaves; the cleanup deletes the rest
MOST_LISTED: Final = 100_000

_MANIFEST: Final = TypeAdapter(Collected)
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class FileArtifactStore:
    """The real :class:`flashpods.ports.ArtifactStore`."""

    def __init__(
        self,
        root: Path,
        *,
        file_bytes: int,
        job_bytes: int,
        max_files: int,
        seconds: float = DEFAULT_SECONDS,
        workers: int | None = None,
    ) -> None:
        """Build it; nothing is touched yet.

        Args:
            root: the directory of all artifacts, ours alone.
            file_bytes: the largest file that is taken.
            job_bytes: the most bytes that are taken from one job.
            max_files: the most files that are taken from one job, those in directories included.
            seconds: the deadline of one collection or deletion.
            workers: collections at once; the number of CPUs when None.
        """
        self._root = root
        self._limits = ArtifactLimits(file_bytes=file_bytes, job_bytes=job_bytes, files=max_files)
        self._seconds = seconds
        self._drop_seconds = min(seconds, DROP_SECONDS)
        # Hashing gigabytes must not keep other work waiting for asyncio's own threads.
        self._pool = ThreadPoolExecutor(workers or os.cpu_count() or 1, "collect")
        self._at_work: dict[str, tuple[Budget, asyncio.Future[Collected]]] = {}

    @property
    def staging(self) -> Path:
        """Holds what each job sees as ``/artifacts`` while it runs, by the job's id."""
        return self._root / STAGING

    def check(self) -> None:
        """Make the directories and prove that they can be used.

        Raises:
            ConfigError: the root can't be written, or this kernel has no openat2(2).
        """
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            for name in (STAGING, COLLECTING, MANIFESTS):
                (self._root / name).mkdir(mode=0o700, exist_ok=True)
            root = os.open(self._root, _DIRECTORY)
        except OSError as e:
            raise ConfigError(f"paths.artifacts {self._root}: {e.strerror}") from e
        try:
            os.close(open_beneath(root, STAGING, os.O_PATH))
        except OSError as e:
            raise ConfigError(
                f"paths.artifacts {self._root}: openat2(2) says {e.strerror}; it needs Linux 5.6 "
                f"or later and a seccomp filter that allows it"
            ) from e
        finally:
            os.close(root)

    async def close(self) -> None:
        """Stop the collections at work; they start again when asked again."""
        for budget, _ in self._at_work.values():
            budget.stop()
        await asyncio.to_thread(self._pool.shutdown)

    async def prepare(self, job: str) -> Path:
        """See :meth:`flashpods.ports.ArtifactStore.prepare`. Raises InsufficientStorage."""
        staging = self._root / STAGING / job_id(job)
        try:
            await asyncio.to_thread(_make, staging)
        except OSError as e:
            raise storage(e, f"the artifacts of job {job}") from e
        return staging

    async def collect(self, job: str, *, at: datetime) -> Collected:
        """See :meth:`flashpods.ports.ArtifactStore.collect`.

        A second call while one is at work waits for that one. What is on disk is then synced:
        a power cut after it loses nothing that was collected.

        Raises:
            Unavailable: it took too long, or the process stops; nothing was committed.
        """
        job_id(job)
        at_work = self._at_work.get(job)
        if at_work is None:
            budget = Budget(self._seconds)
            future = asyncio.get_running_loop().run_in_executor(
                self._pool, self._collect, job, at, budget.check
            )
            self._at_work[job] = at_work = (budget, future)
            future.add_done_callback(lambda f: self._finished(job, f))
        try:
            return await asyncio.shield(at_work[1])
        except Stopped as e:
            raise Unavailable("collecting artifacts did not end in time; try again") from e

    def _finished(self, job: str, future: asyncio.Future[Collected]) -> None:
        del self._at_work[job]
        if not future.cancelled():
            future.exception()  # who waited has it; a cancelled caller does not care

    def _collect(self, job: str, at: datetime, check: Callable[[], None]) -> Collected:
        """Collect once, in a thread."""
        undone = None
        try:
            done = self._committed(job) or self._build(job, at, check)
        except DiskFull:
            undone = Collected(error=DISK, warnings=["artifacts: no space left on the host"])
        except OSError as e:
            undone = _failed(e)
        if undone is not None:  # what is staged stays: a repeat may do better
            self._drop(check, COLLECTING, job=job)
            return undone
        self._drop(check, COLLECTING, STAGING, job=job)
        return done

    def _drop(self, check: Callable[[], None], *places: str, job: str) -> None:
        """Delete leftovers for a while; what resists or takes longer is the cleanup's.

        The job waits for us here, and a job may leave millions of files.
        """
        budget = Budget(self._drop_seconds)

        def guard() -> None:
            check()
            budget.check()

        with contextlib.suppress(OSError, Stopped):
            for where in places:
                tree_tool.discard(str(self._root / where), job, guard=guard)

    def _committed(self, job: str) -> Collected | None:
        if not (self._root / job).is_dir():
            return None
        _sync_directory(self._root)  # who renamed it may have been killed before this
        try:
            return _MANIFEST.validate_json((self._root / MANIFESTS / job).read_bytes())
        except (OSError, ValidationError):
            return Collected(error=FAILED, warnings=["artifacts: the manifest is lost"])

    def _build(self, job: str, at: datetime, check: Callable[[], None]) -> Collected:
        tree_tool.discard(str(self._root / COLLECTING), job, guard=check)
        building = self._root / COLLECTING / job
        with contextlib.ExitStack() as stack:

            def opened(fd: int) -> int:
                stack.callback(os.close, fd)
                return fd

            try:
                parent = opened(open_path(str(self._root / STAGING)))
                source = opened(open_dir(parent, job))
            except FileNotFoundError:
                return Collected(error=GONE, warnings=["artifacts: the directory is gone"])
            os.fchmod(source, 0o755)  # the job may have closed its own mount point
            _make(building)
            target = opened(open_path(str(building)))
            collected = Collector(source, target, limits=self._limits, at=at, check=check).run()
            _sync(target, check)
            self._write_manifest(job, collected)
            os.fsync(target)
            failpoints.hit("artifacts.before_rename")
            building.rename(self._root / job)
            failpoints.hit("artifacts.after_rename")
            _sync_directory(self._root)
        return collected

    def _write_manifest(self, job: str, collected: Collected) -> None:
        final = self._root / MANIFESTS / job
        final.parent.mkdir(mode=0o700, exist_ok=True)
        fresh = final.with_name(ASIDE + job)
        with fresh.open("wb") as file:
            file.write(_MANIFEST.dump_json(collected))
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(final)
        _sync_directory(final.parent)

    async def open(self, job: str, name: str) -> tuple[BinaryIO, int]:
        """See :meth:`flashpods.ports.ArtifactStore.open`; the file is unbuffered."""
        fd = await asyncio.to_thread(self._open, job, name, stat.S_IFREG)
        return cast(BinaryIO, FileIO(fd)), os.fstat(fd).st_size

    async def tar(self, job: str, name: str) -> Iterator[bytes]:
        """See :meth:`flashpods.ports.ArtifactStore.tar`."""
        return tar_chunks(await asyncio.to_thread(self._open, job, name, stat.S_IFDIR), name)

    def _open(self, job: str, name: str, kind: int) -> int:
        missing = NotFound(
            f"job {cut(job)} has no such artifact {cut(name)}; list its artifacts",
            code="artifact_not_found",
        )
        if not JOB_ID.match(job) or not valid_artifact_name(name):
            raise missing
        try:
            parent = os.open(self._root / job, _DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            raise missing from None
        try:
            fd = open_beneath(parent, name, os.O_RDONLY)
        except OSError as e:
            if e.errno in {errno.ENOENT, errno.ELOOP, errno.EXDEV, errno.ENXIO}:
                raise missing from None
            raise
        finally:
            os.close(parent)
        if stat.S_IFMT(os.fstat(fd).st_mode) != kind:
            os.close(fd)
            raise missing
        return fd

    async def delete(self, job: str) -> None:
        """See :meth:`flashpods.ports.ArtifactStore.delete`. Raises Unavailable, OSError."""
        job_id(job)
        if (at_work := self._at_work.get(job)) is not None:
            at_work[0].stop()
            await asyncio.wait({at_work[1]})
        for parent in (self._root, self._root / STAGING, self._root / COLLECTING):
            await discard_tree(self._seconds, parent, job)
        await asyncio.to_thread(self._drop_manifest, job)

    def _drop_manifest(self, job: str) -> None:
        for name in (ASIDE + job, job):
            (self._root / MANIFESTS / name).unlink(missing_ok=True)

    async def stored(self) -> list[str]:
        """See :meth:`flashpods.ports.ArtifactStore.stored`; leftovers of any kind count."""
        return await asyncio.to_thread(self._ids, "", STAGING, COLLECTING, MANIFESTS)

    async def staged(self) -> list[str]:
        """See :meth:`flashpods.ports.ArtifactStore.staged`; half deleted ones too."""
        return await asyncio.to_thread(self._ids, STAGING, COLLECTING)

    async def discard_staged(self, job: str) -> None:
        """See :meth:`flashpods.ports.ArtifactStore.discard_staged`. Raises Unavailable, OSError."""
        job_id(job)
        if job not in self._at_work:
            for parent in (STAGING, COLLECTING):
                await discard_tree(self._seconds, self._root / parent, job)

    def _ids(self, *parents: str) -> list[str]:
        jobs: set[str] = set()
        for parent in parents:
            with contextlib.suppress(FileNotFoundError), os.scandir(self._root / parent) as found:
                for entry in found:
                    name = entry.name.removeprefix(ASIDE)
                    if is_job_id(name) and len(jobs) < MOST_LISTED:
                        jobs.add(name)
        return sorted(jobs)


def _make(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.mkdir(mode=0o755, exist_ok=True)


def _failed(error: OSError) -> Collected:
    code = FAILED
    if error.errno in DISK_FULL:
        code = DISK
    elif error.errno in {errno.EACCES, errno.EPERM}:
        code = PERMISSION
    return Collected(error=code, warnings=[f"artifacts: {error.strerror}"])


def _sync(fd: int, check: Callable[[], None]) -> None:
    """Put a tree of our own making on disk, directories last. Raises OSError."""
    with os.scandir(fd) as entries:
        names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in names:
        check()
        inner = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        try:
            if is_directory:
                _sync(inner, check)
            os.fsync(inner)
        finally:
            os.close(inner)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, _DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
