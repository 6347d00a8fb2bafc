"""The log's fsync fails: what may not have reached the disk is written once more."""

import errno
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from capture_rig import MB, Engine, expected, new, output

from flashpods.adapters.files import capture as capture_module
from flashpods.adapters.files.capture import capture_max_bytes

OWN = b"[09:31:25.000] pulling\n"


class Disk:
    """What of a log is on the disk, when some calls of fsync fail.

    As Linux does it (https://wiki.postgresql.org/wiki/Fsync_Errors): a failure is told once, the
    pages it was about count as clean from then on, so the next call succeeds without them.
    """

    def __init__(self, patch: pytest.MonkeyPatch, log: Path, failing: range) -> None:
        self.content = bytearray()
        self.calls = 0
        self._dirty: list[tuple[int, int]] = [(0, len(OWN))]  # which no pwrite writes
        self._log, self._failing = log, failing
        self._pwrite, self._fsync = os.pwrite, os.fsync
        patch.setattr(os, "pwrite", self.pwrite)
        patch.setattr(os, "fsync", self.fsync)

    def _ours(self, fd: int) -> bool:
        return Path(f"/proc/self/fd/{fd}").readlink() == self._log

    def pwrite(self, fd: int, data: memoryview, offset: int) -> int:
        count = self._pwrite(fd, data, offset)
        if self._ours(fd):
            self._dirty.append((offset, offset + count))
        return count

    def fsync(self, fd: int) -> None:
        if not self._ours(fd):
            self._fsync(fd)
            return
        self.calls += 1
        dirty, self._dirty = self._dirty, []
        if self.calls in self._failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        written = self._log.read_bytes()
        for begin, end in dirty:
            self.content[len(self.content) : end] = bytes(max(0, end - len(self.content)))
            self.content[begin:end] = written[begin:end]
        del self.content[len(written) :]


def run(root: Path, limit: int, engine_of: Callable[[Path, int], Engine]) -> bytes:
    """Run a job; what fails is tried again, as the store does it; return what it wrote."""
    capture = new(root, limit)
    assert capture.note(OWN)
    capture.prepare()
    engine = engine_of(capture.raw, capture_max_bytes(limit))
    lines = output(300)
    for n in range(0, len(lines), 60):
        engine.write(*lines[n : n + 60])
        attempt(capture.step)
    while True:
        more: Any = True
        while more is True:
            more = attempt(partial(capture.step, final=True))
        if more is False and attempt(capture.seal) is not OSError:
            return engine.written
        capture = new(root, limit)  # a drain that failed begins anew


def attempt(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except OSError:
        return OSError


@pytest.mark.parametrize("in_a_row", [1, 3])
@pytest.mark.parametrize("limit", [8_000, MB], ids=["capped", "whole"])
def test_what_a_failed_fsync_left_in_doubt_is_written_again(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    engines: Callable[[Path, int], Engine],
    limit: int,
    in_a_row: int,
) -> None:
    monkeypatch.setattr(capture_module, "CHECKPOINT_SECONDS", 0.0)
    for first in range(1, 100):
        root = tmp_path / str(first)
        root.mkdir()
        log = new(root, limit).log
        with monkeypatch.context() as patch:
            disk = Disk(patch, log, range(first, first + in_a_row))
            written = run(root, limit, engines)
        assert log.read_bytes() == expected(written, limit, OWN), first
        assert disk.content == expected(written, limit, OWN), first
        if disk.calls < first:
            break
    assert first > 3


def test_a_log_of_our_own_lines_alone_is_written_again_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture = new(tmp_path)
    disk = Disk(monkeypatch, capture.log, range(1, 2))
    assert capture.note(OWN)
    assert not capture.step(final=True)
    for _ in range(2):  # and what is in doubt is not sealed
        with pytest.raises(OSError, match=r"Input/output error|sync failed"):
            capture.seal()
    assert disk.calls == 1
    assert not capture.step(final=True)
    capture.seal()
    assert disk.content == capture.log.read_bytes() == OWN
