"""Limits that hold: set, read back, and enforced by the kernel while other jobs go on."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from guest_stack import CGROUPS, SHOWN, Stack, fields, number

pytestmark = pytest.mark.timeout(240)

Note = Callable[[str], None]
GIB = 1024**3
PIDS = 2048  # podman.pids_limit of the embedded default
EAT = "dd if=/dev/zero of=/dev/null bs=1536M count=1"  # one buffer of that size, filled
GO_ON = "while [ ! -e /tmp/stop ]; do echo tick; sleep 1; done"


def shown(directory: Path) -> dict[str, str]:
    return {name: (directory / name).read_text().strip() for name in SHOWN}


def ticks(stack: Stack, job_id: str) -> int:
    return stack.output(job_id).count("tick")


def test_the_branch_for_machines_with_controllers(stack: Stack, note: Note) -> None:
    assert stack.settings["development"]["allow_unenforced_limits"] is False
    assert "limits are not enforced" not in stack.said.read_text()
    needed = {"cpu", "memory", "pids"}
    for directory in (stack.cgroup.parent, stack.cgroup, stack.cgroup / "ctrs"):
        assert needed <= set((directory / "cgroup.subtree_control").read_text().split()), directory
    assert (stack.cgroup / "cgroup.procs").read_text() == ""
    assert stack.cgroup.stat().st_uid == (stack.cgroup / "cgroup.procs").stat().st_uid == 64900
    podman = subprocess.run(["podman", "--version"], capture_output=True, text=True, check=True)
    note(
        f"(1) {podman.stdout.strip()}; {stack.cgroup.relative_to(CGROUPS)} is delegated with "
        f"{(stack.cgroup / 'ctrs' / 'cgroup.subtree_control').read_text().strip()}; "
        "allow_unenforced_limits: false"
    )


def test_limits_are_set_before_the_command_executes(stack: Stack, note: Note) -> None:
    first = "; ".join(f"read x y </sys/fs/cgroup/{name}; echo {name} $x $y" for name in SHOWN)
    job = stack.submit(f"{first}; {GO_ON}")
    stack.printed(job, "tick")
    wanted = {
        "memory.max": str(GIB),
        "memory.swap.max": "0",
        "cpu.max": "100000 100000",
        "pids.max": str(PIDS),
    }
    assert shown(stack.container_cgroup(job)) == wanted
    # systemd owns the root of the hierarchy: it must not take away what ./dev switched on there.
    subprocess.run(["systemctl", "daemon-reload"], check=True, timeout=60)
    subprocess.run(["systemd-run", "--wait", "--quiet", "true"], check=True, timeout=60)
    assert shown(stack.container_cgroup(job)) == wanted
    stack.client.delete(f"/jobs/{job}").raise_for_status()
    row = stack.ended(job)
    assert row["warnings"] == []
    seen = [line.rstrip() for line in stack.output(job)][: len(SHOWN)]
    assert seen == [f"{name} {value}" for name, value in wanted.items()]
    note(f"(2) the first lines of a job, from its own cgroup: {'; '.join(seen)}")


def test_memory_hog_is_killed_and_other_jobs_go_on(stack: Stack, note: Note) -> None:
    other = stack.submit(GO_ON)
    stack.printed(other, "tick")
    began = time.monotonic()
    row = stack.ended(stack.submit(EAT))
    took = time.monotonic() - began
    assert (row["status"], row["error"], row["exit_code"]) == ("failed", "oom_killed", 137), row
    assert stack.client.get(f"/jobs/{other}").json()["status"] == "running"
    before = ticks(stack, other)
    stack.until(other, lambda _: ticks(stack, other) > before)
    stack.client.delete(f"/jobs/{other}").raise_for_status()
    assert stack.ended(other)["status"] == "cancelled"
    note(
        f"(3) a job that eats 1.5 GB of 1: {row['status']}, {row['error']}, {row['exit_code']}, "
        f"{took:.0f} s after it was posted; another went on"
    )


def test_killed_child_under_a_shell_that_succeeds(stack: Stack, note: Note) -> None:
    job = stack.submit(f"{EAT}; echo child ended with $?; exit 0")
    row = stack.ended(job)
    assert (row["status"], row["error"], row["exit_code"]) == ("completed", None, 0), row
    assert any("killed for memory" in warning for warning in row["warnings"]), row
    assert "child ended with 137" in stack.output(job)
    note(f"(3) its child killed, its shell not: {row['status']}, 0, warnings {row['warnings']}")


def test_fork_bomb_is_held(stack: Stack, note: Note) -> None:
    other = stack.submit(GO_ON)
    stack.printed(other, "tick")
    bomb = stack.submit(
        "sh -c 'while :; do sleep 900 & done'; echo bomb ended with $?; "
        "read x </sys/fs/cgroup/pids.current; echo left $x; read x; while :; do sleep 1; done"
    )
    stack.printed(bomb, "left")
    cgroup = stack.container_cgroup(bomb)
    assert number(cgroup / "pids.max") == PIDS
    current, refused = number(cgroup / "pids.current"), fields(cgroup / "pids.events")["max"]
    assert current is not None
    assert PIDS - 8 <= current <= PIDS
    assert refused >= 1
    before = ticks(stack, other)
    stack.until(other, lambda _: ticks(stack, other) > before)
    for job in (bomb, other):
        stack.client.delete(f"/jobs/{job}").raise_for_status()
        assert stack.ended(job)["status"] == "cancelled"
    said = [line for line in stack.output(bomb) if "fork" in line or "bomb" in line]
    note(f"(4) fork bomb: pids.current {current} of {PIDS}, {refused} refused, {said}")


def test_cpu_hog_gets_one_cpu(stack: Stack, note: Note) -> None:
    loop = "while :; do :; done"
    job = stack.submit(f"({loop}) & ({loop}) & echo loops; wait")
    stack.printed(job, "loops")
    cgroup = stack.container_cgroup(job)
    seconds = 8

    def used() -> tuple[float, int]:
        return time.monotonic(), fields(cgroup / "cpu.stat")["usage_usec"]

    began, before = used()
    time.sleep(seconds)  # what is measured is this stretch of time
    now, after = used()
    stat = fields(cgroup / "cpu.stat")
    stack.client.delete(f"/jobs/{job}").raise_for_status()
    assert stack.ended(job)["status"] == "cancelled"
    share = (after - before) / 1e6 / (now - began)
    assert 0.7 <= share <= 1.1, share
    assert stat["nr_throttled"] > 0
    note(
        f"(5) two busy loops with cpus=1 on two CPUs: {share:.2f} CPUs in {now - began:.1f} s, "
        f"throttled in {stat['nr_throttled']} of {stat['nr_periods']} periods"
    )
