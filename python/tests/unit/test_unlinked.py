"""Files without a name that a container's processes hold open are found."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from flashpods.adapters.podman.unlinked import BLOCK, unlinked_bytes

MB = 1024**2
ID = "c" * 64


class Proc:
    """A /proc of one process, whose descriptors are links to files that we hold open."""

    def __init__(self, root: Path, *, container: str = ID, filesystem: str = "ext4") -> None:
        self.proc, self.cgroups = root / "proc", root / "cgroup"
        group = f"fp/libpod-{container}"
        (self.cgroups / group / "inner").mkdir(parents=True)
        (self.cgroups / group / "cgroup.procs").write_text("7\n")
        (self.cgroups / group / "inner" / "cgroup.procs").write_text("8\n")
        for pid in ("7", "8"):
            (self.proc / pid / "fd").mkdir(parents=True)
        (self.proc / "7" / "cgroup").write_text(f"0::/{group}\n")
        device = root.stat().st_dev
        mount = f"1 1 {os.major(device)}:{os.minor(device)} / / rw - {filesystem} x rw\n"
        (self.proc / "7" / "mountinfo").write_text(mount)

    def holds(self, pid: int, number: int, fd: int) -> None:
        (self.proc / str(pid) / "fd" / str(number)).symlink_to(f"/proc/self/fd/{fd}")

    def bytes(self) -> int:
        return unlinked_bytes(7, ID, cgroups=self.cgroups, proc=self.proc)


def test_each_is_counted_once_whoever_holds_it(tmp_path: Path) -> None:
    proc = Proc(tmp_path)
    with tempfile.TemporaryFile(dir=tmp_path) as one, tempfile.TemporaryFile(dir=tmp_path) as two:
        for file in (one, two):
            file.write(b"x" * MB)
            file.flush()
        proc.holds(7, 0, one.fileno())
        proc.holds(8, 0, one.fileno())
        proc.holds(8, 1, two.fileno())
        wanted = sum(os.fstat(f.fileno()).st_blocks * BLOCK for f in (one, two))
        assert proc.bytes() == wanted >= 2 * MB


def test_a_file_with_a_name_and_memory_do_not_count(tmp_path: Path) -> None:
    proc = Proc(tmp_path)
    memory = os.memfd_create("x")
    os.write(memory, b"x" * MB)
    with (tmp_path / "named").open("wb") as named:
        named.write(b"x" * MB)
        named.flush()
        proc.holds(7, 0, named.fileno())
        proc.holds(7, 1, memory)
        assert proc.bytes() == 0
    os.close(memory)


@pytest.mark.parametrize("options", [{"filesystem": "tmpfs"}, {"container": "d" * 64}])
def test_a_memory_mount_and_a_reused_pid_do_not_count(
    tmp_path: Path, options: dict[str, str]
) -> None:
    proc = Proc(tmp_path, **options)
    with tempfile.TemporaryFile(dir=tmp_path) as file:
        file.write(b"x" * MB)
        file.flush()
        proc.holds(7, 0, file.fileno())
        assert proc.bytes() == 0


def test_a_process_that_is_gone_counts_nothing(tmp_path: Path) -> None:
    assert unlinked_bytes(7, ID, cgroups=tmp_path, proc=tmp_path) == 0
