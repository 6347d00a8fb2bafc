"""What ./dev leaves behind: files of the person under sudo, state directories of killed runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flashpods_dev import commands
from flashpods_dev.caller import caller, give_back, left_by_root
from flashpods_dev.machine import Machine

SUDO = {"SUDO_UID": "64903", "SUDO_GID": "64904"}  # users that no file of the machine has


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (SUDO, (64903, 64904)),
        ({}, None),
        ({"SUDO_UID": "64903"}, None),
        ({"SUDO_UID": "0", "SUDO_GID": "0"}, None),  # root called sudo
        ({"SUDO_UID": "-1", "SUDO_GID": "x"}, None),
    ],
)
def test_who_called(environment: dict[str, str], expected: tuple[int, int] | None) -> None:
    assert caller(environment) == expected


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in (
        "python/src/p/__pycache__/a.pyc",
        "python/.ruff_cache/0/x",
        "python/src/p/a.py",
        ".dev/demo/wheel",
        ".dev/images/store",
        ".git/objects/__pycache__/x",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "python" / ".mypy_cache").symlink_to("/etc")
    return tmp_path


def test_only_what_dev_makes_is_meant(checkout: Path) -> None:
    found = {str(path.relative_to(checkout)) for path in left_by_root(checkout)}
    assert found == {
        ".dev/demo",
        "python/.mypy_cache",
        "python/.ruff_cache",
        "python/src/p/__pycache__",
    }


def test_it_is_given_back_and_nothing_else(checkout: Path) -> None:
    before = Path("/etc").stat().st_uid
    foreign = checkout / "python/.ruff_cache/0/foreign"
    foreign.touch()
    os.chown(foreign, 64905, 64905)
    link = checkout / "python/.ruff_cache/0/link"
    link.symlink_to(checkout / "python/src/p/a.py")
    give_back(checkout, {})
    assert (checkout / ".dev/demo/wheel").stat().st_uid == 0
    give_back(checkout, SUDO)
    for name in (".dev/demo", ".dev/demo/wheel", "python/.ruff_cache/0/x"):
        info = (checkout / name).stat()
        assert (info.st_uid, info.st_gid) == (64903, 64904)
    assert (checkout / "python/src/p/__pycache__/a.pyc").stat().st_uid == 64903
    assert link.lstat().st_uid == 64903
    assert foreign.stat().st_uid == 64905
    for name in ("python/src/p/a.py", ".dev", ".dev/images/store", ".git/objects/__pycache__/x"):
        assert (checkout / name).stat().st_uid == 0
    assert Path("/etc").stat().st_uid == before


HOLDER = """
import sys
from pathlib import Path
from flashpods_dev import commands
from flashpods_dev.machine import Machine
here = Path(sys.argv[1])
machine = Machine(checkout=here, run_dir=here, volatiles=here, cgroup="", limits_enforced=False)
with commands.state_directory(machine, "up") as path:
    print(path, flush=True)
    sys.stdin.read()
"""


def test_a_killed_runs_state_goes_with_the_next_run(tmp_path: Path) -> None:
    machine = Machine(
        checkout=tmp_path, run_dir=tmp_path, volatiles=tmp_path, cgroup="", limits_enforced=False
    )
    kept = tmp_path / ".dev" / "state" / "mine"
    kept.mkdir(parents=True)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        theirs = Path(other.stdout.readline().strip())
        with commands.state_directory(machine, "up") as ours:
            assert theirs.is_dir()
            assert ours.is_dir()
            assert ours != theirs
        assert not ours.exists()
        other.kill()
        other.wait(60)
    assert theirs.is_dir()
    with commands.state_directory(machine, "test") as ours:
        assert not theirs.exists()
        assert ours.is_dir()
    assert kept.is_dir()
