"""The ports of what lies on disks: logs, artifacts, trees."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, Protocol

from flashpods.jobs.model import (
    Collected,
    Job,
)
from flashpods.ports.engine import ContainerState

DRAIN_TRIES: Final = 4  # with pauses of 0.5 to 2 s between them
TAIL_BYTES: Final = 4 * 1024**2  # a tail at most, unless its one line is longer


class LogTail(NamedTuple):  # made in a third of a dataclass's time, and a tail is one of these
    """The end of a log. ``total_bytes`` and ``next_offset`` count bytes of complete lines."""

    output: str
    lines: int
    truncated: bool
    total_bytes: int
    offset: int  # where ``output`` begins
    next_offset: int


class LogStore(Protocol):
    """The jobs' logs: ``[HH:MM:SS.mmm] text`` lines, capped, followed by byte offset."""

    async def write(self, job_id: str, text: str, *, at: datetime) -> None:
        """Append one line of ours (pull progress) before the container starts."""
        ...

    def capture_path(self, job_id: str) -> Path:
        """Return where the engine is to write the job's raw output."""
        ...

    async def follow(self, job_id: str) -> None:
        """Begin, or after a restart resume, to turn raw output into the log; repeated: a no-op."""
        ...

    async def drain(self, job_id: str, *, tries: int = DRAIN_TRIES) -> None:
        """Take in all that the dead container wrote, then stop following and drop the raw output.

        Repeated, or on a job never followed: takes what is there. Raises OSError after so many
        tries, with longer and longer pauses between them: the raw output stays, for another call.
        """
        ...

    async def undrained(self) -> list[str]:
        """Return the ids of the jobs whose raw output is still there, running ones too."""
        ...

    async def tail(
        self, job_id: str, lines: int, *, most_bytes: int = TAIL_BYTES
    ) -> LogTail | None:
        """Return the last lines; None if there is no log. Costs by the tail, not by the file.

        At most ``lines`` (1 to 10 000) of them: the newest complete ones that fit in
        ``most_bytes``, but one at least if there is one; the answer's ``lines`` says how many.
        Raises Unavailable: many more read large ones at once.
        """
        ...

    async def read(self, job_id: str, offset: int, limit: int) -> LogTail | None:
        """Return complete lines from byte ``offset``: at most ``limit`` bytes, but one line."""
        ...

    async def changed(self, job_id: str, offset: int, timeout: float) -> None:
        """Return when the log has complete lines beyond ``offset``, is finished, or time is up."""
        ...

    async def delete(self, job_id: str) -> None:
        """Delete log and raw output; absent is fine."""
        ...

    async def stored(self) -> list[tuple[str, int]]:
        """Return (job id, bytes on disk) of every log, raw output included.

        Files whose names are no job's are not ours, and are left out.
        """
        ...

    async def close(self) -> None:
        """Stop following everything; nothing is lost, the next process resumes."""
        ...


class ArtifactStore(Protocol):
    """The jobs' artifacts: a staging directory while they run, the collected names afterwards."""

    async def prepare(self, job_id: str) -> Path:
        """Make the directory that the container sees as ``/artifacts``; repeated: the same."""
        ...

    async def collect(self, job_id: str, *, at: datetime) -> Collected:
        """Take the staged files of a dead container; repeated after a crash: the same result."""
        ...

    async def open(self, job_id: str, name: str) -> tuple[BinaryIO, int]:
        """Open a collected regular file beneath the job's directory: (file, size).

        Raises NotFound ``artifact_not_found``.
        """
        ...

    async def tar(self, job_id: str, name: str) -> Iterator[bytes]:
        """Return a collected directory as the chunks of a tar, all names beneath ``name/``.

        The directory is open until the iterator ends or is closed (``close()``) or dropped. Its
        steps read the disk, so they belong in a thread; they may raise OSError.

        Raises NotFound ``artifact_not_found``.
        """
        ...

    async def delete(self, job_id: str) -> None:
        """Delete staging and collected files; absent is fine."""
        ...

    async def stored(self) -> list[str]:
        """Return the ids of the jobs that have staged or collected files."""
        ...

    async def staged(self) -> list[str]:
        """Return the ids of the jobs that have staged or half collected files."""
        ...

    async def discard_staged(self, job_id: str) -> None:
        """Delete what is staged or half collected of a job that has ended; absent is fine."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeSize:
    """What a tree holds; ``file_count`` counts everything but directories."""

    size_bytes: int
    file_count: int


class TreeTooLarge(Exception):
    """A tree passed the bytes it may hold."""


class Workspaces(Protocol):
    """The trees: in transfer, finalized, and as a job's ``/work``; all on one file system."""

    async def finalize(self, upload_id: str, *, max_bytes: int) -> TreeSize:
        """Measure and disarm the tree in transfer, then rename it out of the module.

        Owners become ours, setuid, setgid and sticky bits go, devices, sockets and FIFOs are
        deleted; links stay links. Repeated after a crash: finds the tree on either side.

        Raises:
            TreeTooLarge: nothing was moved.
            NotFound: ``upload_not_found``, there is no tree on either side.
            Conflict: ``upload_in_progress``, somebody has a file of it open for writing.
        """
        ...

    async def copy(self, upload_id: str, target_id: str) -> None:
        """Make a second finalized tree like the first; whole or not there.

        The caller finds out whether the source stayed finalized meanwhile. Repeated: the copy
        that is there is replaced.

        Raises:
            NotFound: ``upload_not_found``, there is no finalized tree.
            TreeTooLarge: more entries than a tree may have now.
            InsufficientStorage: no room.
        """
        ...

    async def claim(self, upload_id: str | None, job_id: str) -> Path | None:
        """Rename the finalized tree to the job's workspace; without upload make an empty one.

        Repeated: the same path. Returns None if the tree is nowhere.
        """
        ...

    async def discard_upload(self, upload_id: str) -> None:
        """Delete the tree, in transfer or finalized; absent is fine."""
        ...

    async def discard(self, job_id: str) -> bool:
        """Delete the job's workspace; absent is fine.

        Returns:
            Whether it is gone. False, and nothing done: :meth:`keep_as_base` is at work on it, in
            whichever process; try again later.
        """
        ...

    async def keep_as_base(self, job_id: str, project: str, *, keep: int) -> None:
        """Make a workspace that no job could write to the project's base for later transfers.

        Replaces the project's former base, in one step where the file system can, and deletes the
        oldest bases beyond ``keep``. Absent is fine. Killed or failed at any moment the former base
        stays, or the new one is there; a repeated call continues.
        """
        ...

    async def base(self, project: str) -> str | None:
        """Return the path of the project's base within the rsync module (``/.bases/<project>``)."""
        ...

    async def transferring(self) -> list[tuple[str, datetime]]:
        """Return (upload id, date) of every tree in the rsync module."""
        ...

    async def finalized(self, *, before: datetime | None = None) -> list[str]:
        """Return the upload ids of finalized trees: of all, or of those moved there before then."""
        ...

    async def claimed(self) -> list[str]:
        """Return the job ids of workspaces."""
        ...

    async def sweep_spares(self, *, before: datetime) -> int:
        """Delete links that a killed process left beside the trees before then; return how many."""
        ...

    async def drop_bases(self, *, before: datetime) -> int:
        """Delete the bases that came before then; return how many."""
        ...


class DiskGauge(Protocol):
    """How full the three trees are."""

    def usage(self) -> dict[str, float]:
        """Return tree path → used fraction (0 to 1) of its file system."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskFill:
    """How full a file system is, of bytes and of inodes; without an end of these the total is 0."""

    bytes_used: int
    bytes_total: int
    entries_used: int
    entries_total: int

    @property
    def fraction(self) -> float:
        """How full it is of what it has least of, 0 to 1."""
        parts = (
            (self.bytes_used, self.bytes_total),
            (self.entries_used, self.entries_total),
        )
        return max(used / total if total else 0.0 for used, total in parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskUse:
    """What a job holds on disks: allocated bytes by device, and entries on all of them.

    Not ``whole``: it holds at least so much; there was no time to count the rest.
    """

    where: Mapping[int, int]
    entries: int
    whole: bool = True

    @property
    def bytes(self) -> int:
        """All bytes."""
        return sum(self.where.values())


class DiskMeter(Protocol):
    """What jobs write to the host's disks while they run."""

    def fills(self) -> dict[int, DiskFill]:
        """Return device → how full, of each file system that jobs write to. Costs next to nothing.

        One that holds only containers' layers is known once :meth:`held` has seen a container.
        """
        ...

    async def held(self, job: Job, container: ContainerState, *, most: int) -> DiskUse:
        """Return what a job holds: ``/artifacts``, its container's layer, an agent's ``/work``.

        Files without a name that its processes hold open count. Above ``most`` entries it stops
        counting. Costs by the entries, and within a bounded time: then the answer is not whole.

        Raises:
            Unavailable: it can't be measured now.
        """
        ...
