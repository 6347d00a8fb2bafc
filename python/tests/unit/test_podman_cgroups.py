"""Limits read back, on a tree of files like the kernel's."""

import os
from pathlib import Path

import pytest

from flashpods.adapters.podman.cgroups import (
    all_wait,
    belongs,
    cgroup_of,
    children,
    controllers_below,
    first_process,
    open_process,
    read_limits,
    remove_parent,
    waits_for_start,
)
from flashpods.ports import Limits

ID = "a" * 64
HELD = {
    "memory.max": "1073741824",
    "memory.swap.max": "0",
    "cpu.max": "200000 100000",
    "pids.max": "64",
}
LIMITS = Limits(cpus=2, memory_bytes=1 << 30, pids=64)


def tree(root: Path, path: str, files: dict[str, str]) -> str:
    directory = root / path.lstrip("/")
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name).write_text(f"{text}\n")
    return path


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    directory = tmp_path / "proc"
    directory.mkdir()
    (directory / "swaps").write_text("Filename Type Size Used Priority\n")
    return directory


@pytest.mark.parametrize(
    "path",
    [
        f"/fp/ctrs/job_x/libpod-{ID}",
        f"/user.slice/user-990.slice/libpod-{ID}.scope",
        f"/x.service/libpod-payload-{ID}",
    ],
)
def test_limits_of_the_containers_cgroup(tmp_path: Path, proc: Path, path: str) -> None:
    tree(tmp_path, path, HELD)
    assert read_limits(path, ID, root=tmp_path, proc=proc) == LIMITS


def test_limits_above_a_subgroup_of_the_runtime(tmp_path: Path, proc: Path) -> None:
    scope = tree(tmp_path, f"/s/libpod-{ID}.scope", HELD)
    inner = tree(
        tmp_path,
        f"{scope}/container",
        {
            "memory.max": "max",
            "memory.swap.max": "max",
            "cpu.max": "max 100000",
            "pids.max": "max",
        },
    )
    assert read_limits(inner, ID, root=tmp_path, proc=proc) == LIMITS


@pytest.mark.parametrize(
    "change",
    [
        {"memory.max": "max"},
        {"memory.swap.max": "max"},
        {"cpu.max": "max 100000"},
        {"cpu.max": ""},
        {"pids.max": "max"},
    ],
)
def test_one_that_does_not_hold_is_none(tmp_path: Path, proc: Path, change: dict[str, str]) -> None:
    path = tree(tmp_path, f"/libpod-{ID}", HELD | change)
    assert read_limits(path, ID, root=tmp_path, proc=proc) is None


@pytest.mark.parametrize("name", ["memory.max", "cpu.max", "pids.max"])
def test_a_missing_file_is_none(tmp_path: Path, proc: Path, name: str) -> None:
    path = tree(tmp_path, f"/libpod-{ID}", HELD)
    (tmp_path / path.lstrip("/") / name).unlink()
    assert read_limits(path, ID, root=tmp_path, proc=proc) is None


def test_limits_of_others_above_do_not_count(tmp_path: Path, proc: Path) -> None:
    tree(tmp_path, "/unit", HELD)
    path = tree(tmp_path, f"/unit/libpod-{ID}", {})
    assert read_limits(path, ID, root=tmp_path, proc=proc) is None
    assert read_limits("/unit", ID, root=tmp_path, proc=proc) is None


def test_what_is_too_much_reads_as_too_much(tmp_path: Path, proc: Path) -> None:
    path = tree(
        tmp_path, f"/libpod-{ID}", HELD | {"cpu.max": "250000 100000", "memory.swap.max": "4096"}
    )
    found = read_limits(path, ID, root=tmp_path, proc=proc)
    assert found == Limits(cpus=3, memory_bytes=(1 << 30) + 4096, pids=64)


def test_swap_that_is_not_accounted(tmp_path: Path, proc: Path) -> None:
    path = tree(tmp_path, f"/libpod-{ID}", HELD)
    (tmp_path / path.lstrip("/") / "memory.swap.max").unlink()
    assert read_limits(path, ID, root=tmp_path, proc=proc) == LIMITS
    (proc / "swaps").write_text("Filename Type Size Used Priority\n/swap file 1 0 -2\n")
    assert read_limits(path, ID, root=tmp_path, proc=proc) is None


def test_the_process_must_be_in_the_containers_cgroup(proc: Path) -> None:
    mine = proc / str(os.getpid())
    mine.mkdir()
    (mine / "cgroup").write_text(f"1:cpu:/\n0::/x/libpod-{ID}\n")
    assert cgroup_of(os.getpid(), proc=proc) == f"/x/libpod-{ID}"
    assert belongs(os.getpid(), ID, proc=proc)
    assert not belongs(os.getpid(), "b" * 64, proc=proc)
    assert cgroup_of(1, proc=proc) is None


def test_the_first_process_is_number_one_inside(tmp_path: Path, proc: Path) -> None:
    for pid, numbers in (("70", "70\t2"), ("71", "71\t1"), ("72", "72\t11")):
        (proc / pid).mkdir()
        (proc / pid / "status").write_text(f"Name:\tx\nNSpid:\t{numbers}\nVmPeak:\t1 kB\n")
    tree(tmp_path, "/fp/libpod-x", {"cgroup.procs": ""})
    tree(tmp_path, "/fp/libpod-x/container", {"cgroup.procs": "70\n71\n72\n"})
    assert first_process("/fp/libpod-x", root=tmp_path, proc=proc) == 71
    tree(tmp_path, "/fp/libpod-y", {"cgroup.procs": "70\n99\n"})  # the second is gone by now
    assert first_process("/fp/libpod-y", root=tmp_path, proc=proc) is None
    assert first_process("/fp/absent", root=tmp_path, proc=proc) is None


def test_a_job_may_call_itself_anything(tmp_path: Path, proc: Path) -> None:
    """prctl(2), PR_SET_NAME takes any bytes."""
    (proc / "71").mkdir()
    (proc / "71" / "status").write_bytes(b"Name:\t\xff\xfe\nNSpid:\t71\t1\n")
    (proc / "71" / "comm").write_bytes(b"\xff\xfe\n")
    tree(tmp_path, "/fp/libpod-x", {"cgroup.procs": "71\n"})
    assert first_process("/fp/libpod-x", root=tmp_path, proc=proc) == 71
    assert not all_wait("/fp/libpod-x", root=tmp_path, proc=proc)


def test_a_reused_pid_is_not_taken(proc: Path) -> None:
    mine = proc / str(os.getpid())
    mine.mkdir()
    (mine / "cgroup").write_text("0::/user.slice\n")
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert open_process(os.getpid(), ID, proc=proc) is None
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    (mine / "cgroup").write_text(f"0::/libpod-{ID}\n")
    descriptor = open_process(os.getpid(), ID, proc=proc)
    assert descriptor is not None
    os.close(descriptor)


def test_controllers_of_the_nearest_that_exists(tmp_path: Path) -> None:
    tree(tmp_path, "/fp", {"cgroup.controllers": "cpu memory pids"})
    assert controllers_below("/fp/ctrs", root=tmp_path) == {"cpu", "memory", "pids"}
    assert controllers_below("/elsewhere", root=tmp_path) == frozenset()


def test_a_parent_that_holds_a_process_stays_and_is_told(tmp_path: Path) -> None:
    (tmp_path / "fp/job_x/child").mkdir(parents=True)
    busy = tmp_path / "fp/job_x/busy"
    tree(tmp_path, "/fp/job_x/busy", {"process": "here"})
    assert not remove_parent("/fp/job_x", root=tmp_path)
    assert busy.exists()
    assert children("/fp", root=tmp_path) == ["job_x"]
    assert not (tmp_path / "fp/job_x/child").exists()
    (busy / "process").unlink()
    assert remove_parent("/fp/job_x", root=tmp_path)
    assert remove_parent("/fp/job_x", root=tmp_path)
    assert children("/fp", root=tmp_path) == []
    assert children("/nowhere", root=tmp_path) == []
    assert not (tmp_path / "fp/job_x").exists()
    assert (tmp_path / "fp").exists()


@pytest.mark.parametrize(
    ("comm", "cgroup", "expected"),
    [
        ("crun\n", "/x/libpod-abc", True),
        ("runc:[2:INIT]\n", "/x/libpod-abc", True),
        ("podman-init\n", "/x/libpod-abc", False),
        ("crun\n", "/x/libpod-other", None),  # a reused pid
    ],
)
def test_a_container_waits_for_its_start_while_the_oci_runtime_is_its_process(
    tmp_path: Path, comm: str, cgroup: str, expected: bool | None
) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "comm").write_text(comm)
    (tmp_path / "7" / "cgroup").write_text(f"0::{cgroup}\n")
    assert waits_for_start(7, "abc", proc=tmp_path) is expected
    assert waits_for_start(8, "abc", proc=tmp_path) is None


@pytest.mark.parametrize(
    ("names", "expected"),
    [([], True), (["crun"], True), (["crun", "runc:[2:INIT]"], True), (["crun", "sh"], False)],
)
def test_whether_all_of_a_container_waits(tmp_path: Path, names: list[str], expected: bool) -> None:
    pids = [str(pid) for pid in range(7, 7 + len(names))]
    for pid, name in zip(pids, names, strict=True):
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "comm").write_text(f"{name}\n")
    tree(tmp_path, "/fp/job_x", {"cgroup.procs": ""})
    tree(tmp_path, "/fp/job_x/libpod-1", {"cgroup.procs": "\n".join([*pids, "999"])})
    assert all_wait("/fp/job_x", root=tmp_path, proc=tmp_path) is expected
    assert all_wait("/fp/absent", root=tmp_path, proc=tmp_path)
