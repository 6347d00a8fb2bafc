"""What ./dev does about cgroups on each kind of machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flashpods_dev import cgroups
from flashpods_dev.cgroups import NEEDED, plan

ALL = "cpuset cpu io memory hugetlb pids rdma misc\n"


def test_an_ordinary_machine_uses_what_is_there() -> None:
    found = plan("cgroup2", ALL, "cpu memory pids\n", writable=True)
    assert (found.private_mount, found.to_enable, found.limits) == (False, frozenset(), True)


def test_what_the_parent_does_not_hand_down_is_switched_on() -> None:
    assert plan("cgroup2", ALL, "memory pids\n", writable=True).to_enable == {"cpu"}


@pytest.mark.parametrize("filesystem", ["tmpfs", "cgroup", "sysfs"])
def test_v1_controllers_need_a_private_mount(filesystem: str) -> None:
    found = plan(filesystem, "", "", writable=True)
    assert (found.private_mount, found.limits) == (True, False)
    assert "v1" in found.why


def test_a_read_only_hierarchy_needs_a_private_mount() -> None:
    found = plan("cgroup2", ALL, ALL, writable=False)
    assert (found.private_mount, found.limits) == (True, False)
    assert "read-only" in found.why


@pytest.mark.parametrize("missing", sorted(NEEDED))
def test_one_missing_controller_means_no_limits_and_is_named(missing: str) -> None:
    found = plan("cgroup2", " ".join(NEEDED - {missing}), "", writable=True)
    assert (found.private_mount, found.limits, found.to_enable) == (False, False, frozenset())
    assert found.why.endswith(missing)


def test_a_kernel_that_refuses_is_told(tmp_path: Path) -> None:
    assert not cgroups.enable(tmp_path / "absent", NEEDED)
    (tmp_path / "cgroup.subtree_control").touch()
    assert cgroups.enable(tmp_path, frozenset({"cpu"}))
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+cpu"


def test_inspect_of_what_is_no_cgroup(tmp_path: Path) -> None:
    assert cgroups.inspect(tmp_path).private_mount


def test_clear_of_what_is_not_there(tmp_path: Path) -> None:
    assert cgroups.clear(tmp_path / "absent")


def test_clear_says_when_it_could_not(tmp_path: Path) -> None:
    (tmp_path / "group" / "child").mkdir(parents=True)
    (tmp_path / "group" / "child" / "file").touch()  # rmdir fails, as with a live process
    assert not cgroups.clear(tmp_path / "group", seconds=0.05)


def test_delegation_owns_the_files_the_kernel_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owned: list[tuple[str, int, int]] = []

    def chown(path: Path, uid: int, gid: int) -> None:
        owned.append((str(path.relative_to(tmp_path)), uid, gid))

    monkeypatch.setattr(os, "chown", chown)
    cgroups.delegate(tmp_path / "x", 7, limits=False)
    names = {"", "/svc", "/ctrs"}
    files = {"", "/cgroup.procs", "/cgroup.subtree_control", "/cgroup.threads"}
    assert {name for name, *_ in owned} == {f"x{name}{file}" for name in names for file in files}
    assert {(uid, gid) for _, uid, gid in owned} == {(7, 7)}
