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


@dataclass(frozen=True, slots=True)
class Place:
    """An entry: how it is named, where it is, and the directories above it (device, inode)."""

    shown: str
    where: str  # beneath the staging directory; differs from shown below an absolute link
    above: tuple[tuple[int, int], ...] = ()

    @property
    def name(self) -> str:
        """Its last name."""
        return self.shown.rpartition("/")[2]

    def at(self, where: str) -> Place:
        """Return the same entry, found elsewhere."""
        return Place(self.shown, where, self.above)

    def inner(self, name: str, me: tuple[int, int]) -> Place:
        """Return an entry of this directory, whose identity is ``me``."""
        return Place(f"{self.shown}/{name}", f"{self.where}/{name}", (*self.above, me))


Taken = tuple[int, str | None]
"""What an entry came to: its bytes, and its sha256, which a directory has not."""


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
        self._artifacts: list[Artifact] = []
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
        for name in self._names(self._source, "", valid_artifact_name):
            taken = self._entry(Place(name, name), self._target)
            if taken is not None:
                size, sha256 = taken
                artifact = Artifact(
                    name=name,
                    type="directory" if sha256 is None else "file",
                    size_bytes=size,
                    sha256=sha256,
                    created_at=self._at,
                )
                self._artifacts.append(artifact)
        return Collected(
            artifacts=self._artifacts,
            warnings=self._report.warnings(),
            error=self._report.error(),
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
                        reason = f"not looked at, more than {MOST_SCANNED} entries"
                        self._report.add(reason, path or None, LIMIT)
                        return
                    self._scanned += 1
                    if self._plausible(entry, path + entry.name, valid):
                        found += 1
                        yield entry.name

        try:
            # Valid names are valid UTF-8, whose bytes sort as its code points do.
            names = heapq.nsmallest(MOST_LOOKED_AT, candidates())
        except OSError as e:
            self._refused(path or ".", e)
            return []
        if found > len(names):
            reason = f"not looked at, more than {MOST_LOOKED_AT} entries in a directory"
            self._report.add(reason, path or None, LIMIT, count=found - len(names))
        return names

    def _plausible(self, entry: os.DirEntry[str], path: str, valid: Callable[[str], bool]) -> bool:
        if not valid(entry.name):
            self._report.add("skipped, not a valid name", path)
            return False
        known = (
            entry.is_symlink()
            or entry.is_file(follow_symlinks=False)
            or entry.is_dir(follow_symlinks=False)
        )
        if not known:
            self._special(path)
        return known

    def _entry(self, place: Place, into: int) -> Taken | None:
        """Collect one entry under its name in the open directory ``into``.

        Returns:
            None when it was left out and reported.
        """
        self._check()
        longest = max(len(place.shown.encode()), len(place.where.encode()))
        if len(place.above) > MOST_DEPTH or longest > MOST_PATH_BYTES:
            self._report.add("left out, too deep", place.shown, LIMIT)
            return None
        try:
            fd, place = self._resolve(place)
        except OSError as e:
            self._refused(place.shown, e)
            return None
        try:
            info = os.fstat(fd)
            if stat.S_ISREG(info.st_mode):
                return self._file(fd, info, place, into)
            if stat.S_ISDIR(info.st_mode):
                return self._directory(fd, info, place, into)
            self._special(place.shown)
        except OSError as e:
            if e.errno in DISK_FULL:
                raise DiskFull(place.shown) from e
            self._refused(place.shown, e)
        finally:
            os.close(fd)
        return None

    def _resolve(self, place: Place) -> tuple[int, Place]:
        """Return an ``O_PATH`` descriptor of what an entry is or points to, and where that is.

        An absolute link into ``/artifacts`` is the job's own name for a place inside: what follows
        that prefix is resolved beneath, like any other path.
        """
        try:
            return follow_beneath(self._source, place.where), place
        except OSError as e:
            if e.errno != errno.EXDEV:
                raise
            link = follow_beneath(self._source, place.where, os.O_NOFOLLOW)
            try:
                target = os.readlink("", dir_fd=link) + "/"
            finally:
                os.close(link)
            if not target.startswith(MOUNT):
                raise
            place = place.at(target.removeprefix(MOUNT).strip("/") or ".")
            return follow_beneath(self._source, place.where), place

    def _room_for(self, place: Place) -> bool:
        if self._files < self._limits.files and len(self._artifacts) < self._limits.files:
            return True
        reason = f"left out, beyond the {self._limits.files} files of a job"
        self._report.add(reason, place.shown, LIMIT)
        return False

    def _file(self, fd: int, info: os.stat_result, place: Place, into: int) -> Taken | None:
        most, left = self._limits.file_bytes, self._limits.job_bytes - self._bytes
        if info.st_size > most:
            self._report.add(f"left out, larger than {most} bytes", place.shown, LIMIT)
            return None
        if not self._room_for(place):
            return None
        if info.st_size > left:
            reason = f"left out, beyond the {self._limits.job_bytes} bytes of a job"
            self._report.add(reason, place.shown, LIMIT)
            return None
        content = reopen(fd, os.O_RDONLY)
        try:
            sha256 = self._hash(content, info.st_size)
            if sha256 is None:
                self._report.add("left out, somebody writes to it", place.shown, FAILED)
                return None
            self._link(fd, content, info, into, place.name)
        finally:
            os.close(content)
        self._files += 1
        self._bytes += info.st_size
        return info.st_size, sha256

    def _hash(self, content: int, size: int) -> str | None:
        """Return the sha256 of an open file; None if it is not the same throughout."""
        for _ in range(3):
            before = os.fstat(content)
            digest = hashlib.sha256()
            os.lseek(content, 0, os.SEEK_SET)
            left = size
            while left > 0 and (chunk := os.read(content, min(CHUNK, left))):
                self._check()
                digest.update(chunk)  # releases the interpreter's lock
                left -= len(chunk)
            after = os.fstat(content)
            if before.st_mtime_ns == after.st_mtime_ns and after.st_size == size and left == 0:
                return digest.hexdigest()
        return None

    def _link(self, fd: int, content: int, info: os.stat_result, into: int, name: str) -> None:
        """Link the inode behind ``fd``; copy one that has all its links, or is another user's."""
        mode = stat.S_IMODE(info.st_mode)
        try:
            if mode & ~0o777 or mode & 0o600 != 0o600:
                os.fchmod(content, mode & 0o777 | 0o600)
            os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=into, follow_symlinks=True)
        except OSError as e:
            if e.errno not in {errno.EMLINK, errno.EPERM}:  # EPERM: proc_sys_fs(5), hard links
                raise
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            copy = os.open(name, flags, 0o600, dir_fd=into)
            try:
                done = 0
                while n := os.sendfile(copy, content, done, min(CHUNK, info.st_size - done)):
                    self._check()
                    done += n
            finally:
                os.close(copy)

    def _directory(self, fd: int, info: os.stat_result, place: Place, into: int) -> Taken | None:
        """Collect a directory and what is in it; what does not fit is left out of it."""
        me = (info.st_dev, info.st_ino)
        root = os.fstat(self._source)
        if me in place.above or me == (root.st_dev, root.st_ino):
            self._report.add("skipped, a link to a directory above it", place.shown)
            return None
        if not self._room_for(place):
            return None
        if self._directories >= self._limits.files * DIRECTORIES_PER_FILE:
            self._report.add("left out, too many directories", place.shown, LIMIT)
            return None
        self._directories += 1
        listing = reopen(fd, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.mkdir(place.name, 0o700, dir_fd=into)
            made = os.open(place.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=into)
            try:
                size = 0
                for name in self._names(listing, f"{place.shown}/", printable_name):
                    taken = self._entry(place.inner(name, me), made)
                    size += taken[0] if taken is not None else 0
                os.fchmod(made, stat.S_IMODE(info.st_mode) & 0o777 | 0o700)
                os.utime(made, ns=(info.st_atime_ns, info.st_mtime_ns))
            finally:
                os.close(made)
        finally:
            os.close(listing)
        return size, None

    def _special(self, path: str) -> None:
        self._report.add("skipped, neither a file nor a directory", path)

    def _refused(self, path: str, error: OSError) -> None:
        """Report an entry that could not be opened or taken; the others go on."""
        match error.errno:
            case errno.EXDEV:
                self._report.add("skipped, leads out of /artifacts", path)
            case errno.ELOOP:
                self._report.add("skipped, a link that leads in circles", path)
            case errno.ENOENT | errno.ENOTDIR | errno.EAGAIN | errno.ENAMETOOLONG:
                self._report.add("skipped, points to nothing or vanished", path)
            case errno.EACCES | errno.EPERM:
                self._report.add("not readable", path, PERMISSION)
            case _:
                reason = f"could not be taken ({os.strerror(error.errno or errno.EIO)})"
                self._report.add(reason, path, FAILED)
