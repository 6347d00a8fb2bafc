"""A push is held to its quota by a daemon that may do no more than the host's."""

from __future__ import annotations

import filecmp
import os
from pathlib import Path

import pytest
from rsync_hook_rig import ID, TRIES, Daemon, query, until

from flashpods.rsync_measure import Count, measure
from flashpods.rsync_meter import Meter

MB = 1024**2
QUOTA = 128 * MB
# Of what the issue calls the end at the quota; this machine may keep the watcher waiting.
SLACK = 1.5


@pytest.fixture
def limits() -> str:
    return f"--max-bytes={QUOTA}"


def kept(daemon: Daemon, upload: str = ID) -> int:
    ((size,),) = query(daemon.database, "SELECT size_bytes FROM uploads WHERE id = ?", upload)
    return int(str(size or 0))


def pushed(daemon: Daemon, upload: str) -> tuple[int, int]:
    """Push more than the quota; return rsync's exit code and what the upload held at its end."""
    code, _ = daemon.push(f"{upload}/", "--whole-file")
    until(lambda: not daemon.pids())
    until(lambda: kept(daemon, upload) > QUOTA)  # which the hook may count after that
    return code, kept(daemon, upload)


def test_a_fast_push_is_ended_at_its_quota(daemon: Daemon) -> None:
    with (daemon.source / "big").open("wb") as file:
        file.truncate(8 * QUOTA)
    for number in range(TRIES):  # a watcher that is stopped meanwhile ends it late
        upload = f"{ID}{number}"
        code, size = pushed(daemon, upload)
        if code != 0 and size < SLACK * QUOTA:
            break
        (daemon.module / upload / "big").unlink(missing_ok=True)
        query(daemon.database, "DELETE FROM uploads WHERE id = ?", upload)
    assert code != 0
    assert QUOTA < size < SLACK * QUOTA  # what it held when it was ended
    code, said = daemon.push(f"{upload}/")
    assert code != 0
    assert f"the limit is {QUOTA}" in said


def test_a_large_file_is_replaced(daemon: Daemon) -> None:
    """While the new one arrives the old one is there: together they are over the quota."""
    big = daemon.source / "big"
    for _ in range(3):
        big.write_bytes(os.urandom(MB) * (QUOTA * 8 // 10 // MB))
        # Without, rsync takes a file of the same size and second for the same.
        assert daemon.push(f"{ID}/", "--whole-file", "--modify-window=-1") == (0, "")
    until(lambda: not daemon.pids())
    until(lambda: kept(daemon) < QUOTA)
    assert filecmp.cmp(daemon.module / ID / "big", big, shallow=False)


def test_what_arrives_is_no_more_than_what_it_replaces(tmp_path: Path) -> None:
    (tmp_path / "a\nb").write_bytes(bytes(100))
    (tmp_path / ".a\nb.abcDE1").write_bytes(bytes(70))
    assert measure(tmp_path, seconds=60) == Count(170, 2, replaced=70)
    (tmp_path / ".a\nb.abcDE1").write_bytes(bytes(130))
    assert measure(tmp_path, seconds=60) == Count(230, 2, replaced=100)


def test_only_what_changed_last_arrives(tmp_path: Path) -> None:
    for name, size in (("a", 10), (".a.aaaaaa", 10), ("b", 20), (".b.aaaaaa", 20)):
        (tmp_path / name).write_bytes(bytes(size))
        os.utime(tmp_path / name, (0, 0))  # which a client can
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / ".c.aaaaaa").write_bytes(bytes(40))  # nothing is there to be replaced
    while True:  # the clock of a file system stands still for some milliseconds
        (tmp_path / ".a.aaaaaa").chmod(0o600)
        ctimes = [(tmp_path / name).stat().st_ctime_ns for name in (".a.aaaaaa", ".b.aaaaaa")]
        if ctimes[0] > ctimes[1]:
            break
    assert measure(tmp_path, seconds=60).replaced == 10


def used(value: int) -> os.statvfs_result:
    return os.statvfs_result((1, 1, value, 0, 0, 0, 0, 0, 0, 0))


def test_what_others_free_hides_nothing_that_was_written() -> None:
    meter = Meter(lambda fs: fs.f_blocks, most=100, top=1000, first_pace=10, quiet_pace=5)
    for now in (500, 560, 90, 120):
        meter.look(used(now))
    assert meter.bound == 60 + 30
    meter.look(used(131))
    assert meter.bound > meter.most


def test_a_tree_is_due_at_four_times_its_own_pace() -> None:
    meter = Meter(lambda fs: fs.f_blocks, most=100, top=1000, first_pace=10, quiet_pace=5)
    assert meter.likely == 100 / (4 * 10)
    meter.count(50, None)
    meter.count(80, 2.0)
    assert (meter.likely, meter.quiet) == (20 / (4 * 15), False)
    meter.count(80, 2.0)
    assert (meter.likely, meter.quiet) == (20 / (4 * 5), True)
