"""Take what a job left in its ``/artifacts``: check, hash and link, entry by entry.

Everything in there is a stranger's. Each entry is resolved by the kernel beneath the directory
(:mod:`openat2`) to an ``O_PATH`` descriptor, which opens neither a FIFO nor a device; what is then
read, hashed and linked is the inode behind that one descriptor, whatever its name has become
meanwhile. The result holds regular files and directories only: a link that stays inside is taken
as what it points to, at any depth, so the one who unpacks it has no link to follow.

Collected files are hard links to the staged ones: nothing is copied.
"""

from __future__ import annotations

import errno
import hashlib
import heapq
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from flashpods.adapters.files.offload import DISK_FULL
from flashpods.adapters.files.openat2 import follow_beneath, reopen
from flashpods.errors import cut
from flashpods.jobs.model import Artifact, Collected
from flashpods.jobs.names import printable_name, valid_artifact_name

MOUNT: Final = "/artifacts/"  # where the container sees the staging directory
CHUNK: Final = 1024**2
NAMED: Final = 50  # names in one warning; the rest is a count
MOST_LOOKED_AT: Final = 10_000  # entries of one directory that are considered, in name order
MOST_SCANNED: Final = 1_000_000  # directory entries read in one collection
MOST_DEPTH: Final = 64
MOST_PATH_BYTES: Final = 2048  # so that whoever unpacks it stays below PATH_MAX
DIRECTORIES_PER_FILE: Final = 10

PERMISSION: Final = "artifact_copy_permission"
FAILED: Final = "artifact_copy_failed"
LIMIT: Final = "artifact_limit_exceeded"
DISK: Final = "artifact_copy_disk_full"
GONE: Final = "artifact_copy_container_gone"
_WORST_FIRST: Final = (DISK, PERMISSION, FAILED, LIMIT)


class DiskFull(Exception):
    """Nothing more can be written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactLimits:
    """What a job may leave behind."""

    file_bytes: int
    job_bytes: int
    files: int


@dataclass(slots=True)
class Report:
    """Warnings by reason, each naming up to :data:`NAMED` entries, and the worst error."""

    reasons: dict[str, tuple[list[str], int]] = field(default_factory=dict)
    errors: set[str] = field(default_factory=set)

    def add(self, reason: str, name: str | None, error: str | None = None, count: int = 1) -> None:
        """Count an entry under a reason; ``name`` None counts without a name."""
        names, total = self.reasons.get(reason, ([], 0))
        if name is not None and len(names) < NAMED:
            names.append(cut(name))
        self.reasons[reason] = (names, total + count)
        if error is not None:
            self.errors.add(error)

    def warnings(self) -> list[str]:
        """Return one line a reason."""
        lines = []
        for reason, (names, total) in self.reasons.items():
            more = total - len(names)
            tail = [f"{more} more"] if names else [f"{more} entries"]
            lines.append(f"artifacts: {reason}: {', '.join(names + (tail if more else []))}")
        return lines

    def error(self) -> str | None:
        """Return the error that the job fails with, the worst if there are several."""
        return next((e for e in _WORST_FIRST if e in self.errors), None)


class Collector:
    """One collection, from a staging directory into an empty target on the same file system."""

    def __init__(
        self,
        source: int,
        target: int,
        *,
        limits: ArtifactLimits,
        at: datetime,
        check: Callable[[], None],
    ) -> None:
        """Build it from open directories; ``check`` is called often and raises to stop."""
        self._source = source
        self._target = target
        self._limits = limits
        self._at = at
        self._check = check
        self._report = Report()
        self._bytes = 0
        self._files = 0
        self._directories = 0
        self._scanned = 0

    def run(self) -> Collected:
        """Collect everything.

        Raises:
            DiskFull: there is no room even for links.
            Whatever ``check`` raises.
        """
        artifacts = []
        for name in self._names(self._source, "", valid_artifact_name):
            if len(artifacts) >= self._limits.files:
                self._over_files(name)
                continue
            artifact = self._artifact(name)
            if artifact is not None:
                artifacts.append(artifact)
        return Collected(
            artifacts=artifacts, warnings=self._report.warnings(), error=self._report.error()
        )

    def _artifact(self, name: str) -> Artifact | None:
        """Collect one top-level name."""
        taken = self._entry(name, self._target, name, ())
        if taken is None:
            return None
        size, sha256 = taken
        return Artifact(
            name=name,
            type="directory" if sha256 is None else "file",
            size_bytes=size,
            sha256=sha256,
            created_at=self._at,
        )

    def _names(self, fd: int, path: str, valid: Callable[[str], bool]) -> list[str]:
        """Return the names in an open directory that are worth a look, in order of their bytes."""
        found = 0

        def candidates() -> Iterator[str]:
            nonlocal found
            with os.scandir(fd) as entries:
                for entry in entries:
                    self._check()
                    if self._scanned >= MOST_SCANNED:
                        self._report.add(
                            f"not looked at, more than {MOST_SCANNED} entries", path or None, LIMIT
                        )
                        return
                    self._scanned += 1
                    if self._plausible(entry, path + entry.name, valid):
                        found += 1
                        yield entry.name

        # Valid names are valid UTF-8, whose bytes sort as its code points do.
        names = heapq.nsmallest(MOST_LOOKED_AT, candidates())
        if found > len(names):
            reason = f"not looked at, more than {MOST_LOOKED_AT} entries in a directory"
            self._report.add(reason, path or None, LIMIT, count=found - len(names))
        return names

    def _plausible(self, entry: os.DirEntry[str], path: str, valid: Callable[[str], bool]) -> bool:
        if not valid(entry.name):
            self._report.add("skipped, not a valid name", path)
            return False
        try:
            known = (
                entry.is_symlink()
                or entry.is_file(follow_symlinks=False)
                or entry.is_dir(follow_symlinks=False)
            )
        except OSError as e:
            self._refused(path, e)
            return False
        if not known:
            self._special(path)
        return known

    def _entry(
        self, path: str, into: int, name: str, above: tuple[tuple[int, int], ...]
    ) -> tuple[int, str | None] | None:
        """Collect the entry at ``path`` as ``name`` in the open directory ``into``.

        Returns:
            (bytes, sha256, None for a directory), or None when it was left out and reported.
        """
        self._check()
        if len(above) > MOST_DEPTH or len(path.encode()) > MOST_PATH_BYTES:
            self._report.add("skipped, too deep", path, LIMIT)
            return None
        try:
            fd = self._resolve(path)
        except OSError as e:
            self._refused(path, e)
            return None
        try:
            info = os.fstat(fd)
            if stat.S_ISREG(info.st_mode):
                return self._file(fd, info, path, into, name)
            if stat.S_ISDIR(info.st_mode):
                size = self._directory(fd, info, path, into, name, above)
                return None if size is None else (size, None)
            self._special(path)
        except OSError as e:
            if e.errno in DISK_FULL:
                raise DiskFull(path) from e
            self._refused(path, e)
        finally:
            os.close(fd)
        return None

    def _resolve(self, path: str) -> int:
        try:
            return follow_beneath(self._source, path)
        except OSError as e:
            if e.errno != errno.EXDEV:
                raise
            # The job's own absolute name for a place inside; the kernel judges the rest of it.
            link = os.readlink(path, dir_fd=self._source)
            if not link.startswith(MOUNT):
                raise
            return follow_beneath(self._source, link.removeprefix(MOUNT).lstrip("/") or ".")

    def _file(
        self, fd: int, info: os.stat_result, path: str, into: int, name: str
    ) -> tuple[int, str] | None:
        if self._files >= self._limits.files:
            self._over_files(path)
            return None
        if not self._fits(info.st_size, path):
            return None
        content = reopen(fd, os.O_RDONLY)
        try:
            hashed = self._hash(content)
            if hashed is None:
                self._report.add("skipped, changed while it was collected", path, FAILED)
                return None
            size, sha256 = hashed
            if not self._fits(size, path):
                return None
            os.fchmod(content, stat.S_IMODE(info.st_mode) & 0o777 | 0o600)
            self._link(fd, content, size, into, name)
        finally:
            os.close(content)
        self._files += 1
        self._bytes += size
        return size, sha256

    def _fits(self, size: int, path: str) -> bool:
        most, left = self._limits.file_bytes, self._limits.job_bytes - self._bytes
        if size > most:
            self._report.add(f"left out, larger than {most} bytes", path, LIMIT)
        elif size > left:
            reason = f"left out, beyond the {self._limits.job_bytes} bytes of a job"
            self._report.add(reason, path, LIMIT)
        return size <= min(most, left)

    def _hash(self, content: int) -> tuple[int, str] | None:
        """Return (size, sha256) of an open file; None if somebody keeps writing to it."""
        for _ in range(3):
            before = os.fstat(content)
            digest = hashlib.sha256()
            os.lseek(content, 0, os.SEEK_SET)
            left = before.st_size
            while left > 0 and (chunk := os.read(content, min(CHUNK, left))):
                self._check()
                digest.update(chunk)  # releases the interpreter's lock
                left -= len(chunk)
            after = os.fstat(content)
            if left == 0 and (before.st_size, before.st_mtime_ns) == (
                after.st_size,
                after.st_mtime_ns,
            ):
                return before.st_size, digest.hexdigest()
            if after.st_size > self._limits.file_bytes:
                return after.st_size, ""  # refused by its size
        return None

    def _link(self, fd: int, content: int, size: int, into: int, name: str) -> None:
        """Link the inode behind ``fd``; copy one that has all the links it may have."""
        try:
            os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=into, follow_symlinks=True)
        except OSError as e:
            if e.errno != errno.EMLINK:
                raise
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            copy = os.open(name, flags, 0o600, dir_fd=into)
            try:
                done = 0
                while done < size and (n := os.sendfile(copy, content, done, size - done)):
                    self._check()
                    done += n
            finally:
                os.close(copy)

    def _directory(
        self,
        fd: int,
        info: os.stat_result,
        path: str,
        into: int,
        name: str,
        above: tuple[tuple[int, int], ...],
    ) -> int | None:
        """Collect a directory and what is in it; what does not fit is left out of it."""
        me = (info.st_dev, info.st_ino)
        root = os.fstat(self._source)
        if me in above or me == (root.st_dev, root.st_ino):
            self._report.add("skipped, a link to a directory above it", path)
            return None
        if self._files >= self._limits.files:
            self._over_files(path)
            return None
        if self._directories >= self._limits.files * DIRECTORIES_PER_FILE:
            self._report.add("left out, too many directories", path, LIMIT)
            return None
        self._directories += 1
        listing = reopen(fd, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.mkdir(name, 0o700, dir_fd=into)
            made = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=into)
            try:
                size = 0
                for inner in self._names(listing, f"{path}/", printable_name):
                    taken = self._entry(f"{path}/{inner}", made, inner, (*above, me))
                    size += taken[0] if taken is not None else 0
                os.fchmod(made, stat.S_IMODE(info.st_mode) & 0o777 | 0o700)
                os.utime(made, ns=(info.st_atime_ns, info.st_mtime_ns))
            finally:
                os.close(made)
        finally:
            os.close(listing)
        return size

    def _over_files(self, path: str) -> None:
        self._report.add(f"left out, beyond the {self._limits.files} files of a job", path, LIMIT)

    def _special(self, path: str) -> None:
        self._report.add("skipped, neither a file nor a directory", path)

    def _refused(self, path: str, error: OSError) -> None:
        """Report an entry that could not be opened or taken; the others go on."""
        match error.errno:
            case errno.EXDEV:
                self._report.add("skipped, leads out of /artifacts", path)
            case errno.ELOOP:
                self._report.add("skipped, a link that leads nowhere or in circles", path)
            case errno.ENOENT | errno.ENOTDIR | errno.EAGAIN | errno.ENAMETOOLONG:
                self._report.add("skipped, points to nothing or vanished", path)
            case errno.EACCES | errno.EPERM:
                self._report.add("not readable", path, PERMISSION)
            case _:
                reason = f"could not be taken ({os.strerror(error.errno or errno.EIO)})"
                self._report.add(reason, path, FAILED)
