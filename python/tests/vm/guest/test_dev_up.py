"""The branch of ``./dev`` for kernels with controllers; on others it does without.

What limits do is shown on HOST, by the scripts of checks/.
"""

from __future__ import annotations

import pytest
from guest_stack import SHOWN, Stack, left_behind

pytestmark = pytest.mark.timeout(240)

GIB = 1024**3
PIDS = 2048  # podman.pids_limit of the embedded default


def test_the_engine_gets_a_subtree_with_the_controllers(stack: Stack) -> None:
    assert stack.settings["development"]["allow_unenforced_limits"] is False
    assert "limits are not enforced" not in stack.said.read_text()
    needed = {"cpu", "memory", "pids"}
    for directory in (stack.cgroup.parent, stack.cgroup, stack.cgroup / "ctrs"):
        assert needed <= set((directory / "cgroup.subtree_control").read_text().split()), directory
    assert (stack.cgroup / "cgroup.procs").read_text() == ""
    assert stack.cgroup.stat().st_uid == (stack.cgroup / "cgroup.procs").stat().st_uid == 64900


def test_limits_are_set(stack: Stack) -> None:
    first = "; ".join(f"read x y </sys/fs/cgroup/{name}; echo {name} $x $y" for name in SHOWN)
    job = stack.submit(f"{first}; while :; do echo tick; sleep 1; done")
    stack.printed(job, "tick")
    wanted = {
        "memory.max": str(GIB),
        "memory.swap.max": "0",
        "cpu.max": "100000 100000",
        "pids.max": str(PIDS),
    }
    at = stack.container_cgroup(job)
    assert {name: (at / name).read_text().strip() for name in SHOWN} == wanted
    seen = [line.rstrip() for line in stack.output(job)][: len(SHOWN)]
    assert seen == [f"{name} {value}" for name, value in wanted.items()]


def test_ctrl_c_with_jobs_leaves_nothing(stack: Stack) -> None:
    stack.running(stack.submit("while :; do sleep 1; done"))
    stack.stop()
    assert left_behind() == stack.before
    assert not list(stack.state.glob("engine/podman.sock"))
