"""One job's capture: raw output in, log out, in bounded passes that block (so: off the loop).

On disk, for a job whose log is not complete yet (``<capture>/<job>`` exists exactly that long):

    <capture>/<job>/raw           what conmon writes; it renames ``raw.tmp`` over it when it is full
    <capture>/<job>/kept/0, 1, …  hard links to the raw files not read to their end, oldest first;
                                  ``2g``: output before it may be missing (see :meth:`_adopt`)
    <capture>/<job>/kept/origin       where the log's own lines end and the container's begin
    <capture>/<job>/kept/checkpoint   raw file and offset ↔ log offset, and unended lines
    <logs>/<job>.log              the log; at most a checkpoint's age ahead of the checkpoint

The log is a deterministic function of the raw bytes, so after a kill we go back to the checkpoint
and write the same bytes again *over* what is there: no offset that a reader holds ever changes.

``kept/0`` is linked before the container exists, so no rotation can take the beginning away, and
one raw file of :func:`capture_max_bytes` always fills a log: so while our process is down two raw
files are on disk at most, while it is up three. (Exception: output in parts of a few bytes, each of
which conmon stores with 46 bytes around it. Should such output rotate more than once while our
process is down, what lies between is lost, and the log says so.)

``raw.tmp`` is conmon's alone: were we to touch it, its rename could fail, and conmon would exit and
take the container with it.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from flashpods import failpoints
from flashpods.adapters.files.capture_state import Kept, Place, decode, encode, replace_file
from flashpods.adapters.files.k8sfile import (
    LINE_BYTES,
    ParserState,
    flush,
    parse,
    whole_lines,
)
from flashpods.adapters.files.logread import complete_end, truncation_line

PASS_BLOCKS: Final = 4  # of 256 KiB: what one pass takes before others get their turn
CHECKPOINT_SECONDS: Final = 1.0  # and a power cut takes no more than what came within about that
OWN_BYTES: Final = 1024**2  # lines of ours, in all
DISCARD_BYTES: Final = 1024**2  # after the cap: raw output is thrown away when it is this much
KEPT_MOST: Final = 2
GAP_LINE: Final = b"[..] [GAP - output may be missing here]\n"

_log = structlog.get_logger(__name__)


def capture_max_bytes(log_bytes: int) -> int:
    """Return the size at which the engine is to rotate its raw file.

    The shortest raw line is 46 bytes and makes a log line of 16, so 2.875 raw bytes for a byte of
    log are enough; conmon rotates before the line that would not fit, 8 KiB and a header at most.
    """
    return 3 * log_bytes + 64 * 1024


class Capture:
    """The files of one job's capture. Every method takes the lock and may raise OSError.

    After an OSError nothing is lost: the place has not moved, or it is again the last one that was
    saved; go on with :meth:`step`. While the log can't be synced it stands still.

    Attributes:
        visible: bytes of the log that readers may see; complete lines. Any thread may read it.
        capped: whether the log has reached its limit, for its readers. Any thread may read it.
        finished: whether the log is complete and the raw output gone.
    """

    def __init__(self, job_id: str, log: Path, directory: Path, *, log_bytes: int) -> None:
        self.job_id = job_id
        self.log = log
        self.directory = directory
        self.raw = directory / "raw"
        self.visible = 0
        self.capped = False
        self.finished = False
        self._limit = log_bytes
        self._marker = truncation_line(log_bytes)
        self._kept_dir = directory / "kept"
        self._origin_file = self._kept_dir / "origin"
        self._checkpoint_file = self._kept_dir / "checkpoint"
        self._lock = threading.Lock()
        self._kept: list[Kept] = []
        self._place: Place | None = None  # None: not opened
        self._saved: Place | None = None
        self._saved_at = 0.0
        self._missed = False  # a raw file came and went without being kept
        self._origin = 0  # where our own lines end
        self._doubt = False  # the log's end is to be written once more

    # ------------------------------------------------------------------ before the container

    def prepare(self) -> None:
        """Make the directory, the raw file and the link that keeps it; repeated: a no-op."""
        with self._lock:
            self._prepare()

    def _prepare(self) -> None:
        self.directory.mkdir(mode=0o750, exist_ok=True)
        self._kept_dir.mkdir(mode=0o750, exist_ok=True)
        self.log.touch(mode=0o640)
        if self._checkpoint_file.exists() or (self._kept_dir / "0").exists():
            return
        self.raw.touch(mode=0o640)
        with suppress(FileExistsError):
            os.link(self.raw, self._kept_dir / "0")

    def note(self, lines: bytes) -> bool:
        """Append lines of ours; False if it is too late for them or they are too many."""
        with self._lock:
            if not self.directory.exists() and self.log.exists():
                return False
            self._prepare()
            size = self.log.stat().st_size
            if self._origin_file.exists() or size + len(lines) > min(OWN_BYTES, self._limit // 2):
                return False
            with self.log.open("ab", buffering=0) as f:
                f.write(lines)
            return True

    # ------------------------------------------------------------------ passes

    def open(self) -> None:
        """Find the place to go on from; repeated: a no-op."""
        with self._lock:
            self._open()

    def step(self, *, final: bool = False) -> bool:
        """Take in a bounded amount of raw output; return whether there may be more.

        Args:
            final: the container is dead: a torn last line counts as a line.
        """
        with self._lock:
            self._open()
            if self.finished:
                return False
            self._doubt = False
            more = not self._here().capped
            for _ in range(PASS_BLOCKS):
                more = more and self._block(final=final)
            self._release()
            if self._here().capped:
                self._discard()
                return False
            if self._place != self._saved and (
                time.monotonic() - self._saved_at >= CHECKPOINT_SECONDS
            ):
                self._save()
            return more

    def seal(self) -> None:
        """After the last ``step(final=True)``: complete the log durably, drop the raw output."""
        with self._lock:
            self._open()
            if self.finished:
                return
            if self._doubt:
                raise OSError(errno.EIO, "its sync failed: step(final=True) comes first", self.log)
            place = self._here()
            if not place.capped:
                self._append(flush(place.parser), place.generation, place.offset, ParserState())
            # A power cut may have kept less raw output than log.
            os.truncate(self.log, self._here().log)
            self._sync()
            self.visible = self._here().log
            self._remove()

    def delete(self) -> None:
        """Delete log and raw output."""
        with self._lock:
            self._remove()
            self.log.unlink(missing_ok=True)

    # ------------------------------------------------------------------ the parts

    def _here(self) -> Place:
        assert self._place is not None, "opened first"
        return self._place

    def _open(self) -> None:
        if self._place is not None or self.finished:
            return
        if not self.directory.exists():
            self.finished = True  # or never begun: there is nothing to take either way
            return
        self._prepare()
        with self.log.open("rb") as f:
            complete, self.capped = complete_end(f.fileno(), self._marker)
        origin = self._load_origin(complete)
        self._kept = sorted(map(Kept.at, self._kept_dir.glob("[0-9]*")), key=lambda k: k.number)
        first = self._kept[0].number if self._kept else 0
        self._origin = min(origin, complete)
        start = Place(first, 0, self._origin, False, ParserState())
        saved = self._load_checkpoint()
        place = saved or start
        if place.log > self.log.stat().st_size:  # the log's end did not survive a power cut
            place = start
        if self.capped and saved is None and self._checkpoint_file.exists():
            # Unreadable; so the raw output may be gone already, and the log's end must do.
            place = Place(place.generation, place.offset, complete, True, ParserState())
        self.capped = self.capped or place.capped
        self.visible = max(place.log, complete)
        self._place = self._saved = place
        self._saved_at = time.monotonic()
        if not place.capped:
            self._adopt(gap=True)

    def _load_origin(self, complete: int) -> int:
        """Return the size of our own lines; from now on there are no more of them."""
        with suppress(FileNotFoundError):
            return int(self._origin_file.read_text())
        replace_file(self._origin_file, str(complete).encode())
        return complete

    def _load_checkpoint(self) -> Place | None:
        try:
            return decode(self._checkpoint_file.read_bytes())
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as e:
            _log.warning("capture_checkpoint_unreadable", job_id=self.job_id, reason=str(e))
            return None

    def _save(self) -> None:
        place = self._here()
        self._sync()
        replace_file(self._checkpoint_file, encode(place))
        self._saved, self._saved_at = place, time.monotonic()
        failpoints.hit("capture.after_checkpoint")

    def _sync(self) -> None:
        """Put the log on the disk; if that fails, go back to the last place that was saved.

        The kernel reports a failed write-back once and then calls those pages clean: a later fsync
        succeeds though they never reached the disk. So what is in doubt is written once more: the
        container's lines by the next step, from its raw output, and ours here, from memory.
        """
        with self.log.open("rb+", buffering=0) as f:
            try:
                os.fsync(f.fileno())
            except OSError:
                self._place, self._doubt = self._saved, True
                with suppress(OSError):
                    os.pwrite(f.fileno(), os.pread(f.fileno(), self._origin, 0), 0)
                raise

    def _adopt(self, *, gap: bool = False) -> None:
        """Keep the raw file that conmon writes to now, if it has rotated.

        A raw file is rotated only after megabytes, and we look with each pass, so we miss none
        while we run. After a restart (``gap``) there may have been others between. Nor do we keep
        more than we need, should the log not be writable while conmon goes on.
        """
        try:
            inode = self.raw.stat().st_ino
        except FileNotFoundError:
            return
        last = self._kept[-1] if self._kept else None
        if last is not None and last.inode == inode:
            return
        if sum(k.number >= self._here().generation for k in self._kept) >= KEPT_MOST:
            self._missed = True
            return
        number = last.number + 1 if last else self._here().generation + 1
        path = self._kept_dir / f"{number}{'g' if gap or self._missed else ''}"
        os.link(self.raw, path)
        self._missed = False
        self._kept.append(Kept.at(path))

    def _block(self, *, final: bool) -> bool:
        """Take one block; return whether there may be more."""
        self._adopt()
        place = self._here()
        current = next((k for k in self._kept if k.number >= place.generation), None)
        if current is None:
            return False
        if current.number > place.generation:
            return self._next_generation(current)
        fd = os.open(current.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            block = os.pread(fd, LINE_BYTES, place.offset)
        finally:
            os.close(fd)
        rotated = current is not self._kept[-1]  # conmon has closed it: what we read is its end
        taken = whole_lines(block, closed=final or rotated)
        if taken:
            lines, parser = parse(block[:taken], place.parser)
            self._append(lines, place.generation, place.offset + taken, parser)
            return not self._here().capped
        following = next((k for k in self._kept if k.number > place.generation), None)
        return following is not None and self._next_generation(following)

    def _next_generation(self, kept: Kept) -> bool:
        parser = self._here().parser
        if kept.gap:
            self._append([*flush(parser), GAP_LINE[:-1]], kept.number, 0, ParserState())
        else:
            self._append([], kept.number, 0, parser)
        return not self._here().capped

    def _append(
        self, lines: list[bytes], generation: int, offset: int, parser: ParserState
    ) -> None:
        """Write lines at the log's end, up to its limit, then move the place."""
        size, capped = self._here().log, False
        data = b"\n".join([*lines, b""])
        if size + len(data) > self._limit:
            capped, data = True, self._cut(data, self._limit - size) + self._marker
        if data:
            failpoints.hit("capture.before_append")
            fd = os.open(self.log, os.O_WRONLY | os.O_CLOEXEC)
            try:
                view = memoryview(data)
                while view:
                    written = os.pwrite(fd, view, size)
                    view, size = view[written:], size + written
                if capped:
                    os.ftruncate(fd, size)
            finally:
                os.close(fd)
            failpoints.hit("capture.after_append")
        self._place = Place(generation, offset, size, capped, parser)
        self.capped |= capped  # first: who sees the last line must know it
        self.visible = max(self.visible, size)

    @staticmethod
    def _cut(data: bytes, most: int) -> bytes:
        """Return the whole lines that fit."""
        return data[: data.rfind(b"\n", 0, max(most, 0)) + 1]

    def _discard(self) -> None:
        """Throw raw output away; conmon appends, so it goes on at the file's new end.

        Its own count goes on too, so it still rotates; should we be down, that is the bound.
        """
        with suppress(FileNotFoundError):
            if self.raw.stat().st_size > DISCARD_BYTES:
                os.truncate(self.raw, 0)

    def _release(self) -> None:
        """Drop the links to raw files that are no longer needed, once a checkpoint says so."""
        place = self._here()
        done = [k for k in self._kept if place.capped or k.number < place.generation]
        if done:
            self._save()
            for kept in done:
                kept.path.unlink(missing_ok=True)
            self._kept = [k for k in self._kept if k not in done]

    def _remove(self) -> None:
        """Drop the capture; the rename is the moment from which the log counts as complete."""
        gone = self.directory.with_name(f".gone-{self.directory.name}")
        shutil.rmtree(gone, ignore_errors=True)
        failpoints.hit("capture.before_rename")
        with suppress(FileNotFoundError):
            self.directory.rename(gone)
        failpoints.hit("capture.after_rename")
        self.finished = True
        shutil.rmtree(gone, ignore_errors=True)


def sweep(capture: Path) -> None:
    """Delete what a kill left of captures that were being removed."""
    for gone in capture.glob(".gone-*"):
        shutil.rmtree(gone, ignore_errors=True)
