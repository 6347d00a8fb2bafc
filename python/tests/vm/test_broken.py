"""Limits that do not hold: the job must fail, and its command must never execute."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from guest_stack import STATE, Stack, left_behind, up

pytestmark = pytest.mark.timeout(300)

Note = Callable[[str], None]
MARK = "echo ran; echo ran >/artifacts/ran; sleep 600"

# An OCI runtime that forgets the limits, and says nothing.
FORGETS = """#!/bin/sh
bundle=
for word; do
  case $before in --bundle | -b) bundle=$word ;; esac
  case $word in --bundle=*) bundle=${word#--bundle=} ;; esac
  before=$word
done
[ -z "$bundle" ] || /usr/bin/python3 -S -E -c '
import json, sys
path = sys.argv[1]
config = json.load(open(path))
config["linux"].pop("resources", None)
json.dump(config, open(path, "w"))
open("MARKER", "a").write("x")
' "$bundle/config.json"
exec /usr/bin/crun "$@"
"""


def assert_refused(stack: Stack) -> str:
    """Post a job that would leave traces, and find it refused, without a trace."""
    job = stack.submit(MARK)
    row = stack.ended(job)
    assert (row["status"], row["error"]) == ("failed", "limits_not_enforced"), row
    assert row["exit_code"] is None
    assert row["started_at"] is None
    assert "ran" not in stack.output(job)
    assert stack.client.get(f"/jobs/{job}/artifacts").json()["artifacts"] == []
    return str(row["events"][-1]["why"])


def test_a_runtime_that_forgets_the_limits(note: Note) -> None:
    with up("forgets") as stack:
        marker = stack.state / "engine" / "forgotten"
        shim = stack.state / "engine" / "crun-forgets"
        shim.write_text(FORGETS.replace("MARKER", str(marker)))
        shim.chmod(0o755)
        conf = stack.state / "engine" / "containers.conf"
        conf.write_text(f'{conf.read_text()}\n[engine.runtimes]\ncrun = ["{shim}"]\n')
        stack.restart("podman", "podman", "system", "service")
        why = assert_refused(stack)
        assert marker.exists()
        note(f"(6) a runtime that sets no limit: failed, limits_not_enforced, {why}")


def test_no_controllers_below_the_parent(note: Note) -> None:
    with up("undelegated") as stack:
        assert stack.ended(stack.submit("true"))["status"] == "completed"
        below = sorted(p for p in (stack.cgroup / "ctrs").rglob("*") if p.is_dir())
        for directory in (
            *reversed(below),
            stack.cgroup / "ctrs",
            stack.cgroup,
            stack.cgroup.parent,
        ):
            (directory / "cgroup.subtree_control").write_text("-cpu -memory -pids")
        assert not (stack.cgroup / "ctrs" / "memory.max").exists()
        why = assert_refused(stack)
        note(f"(6) controllers gone since the API looked: limits_not_enforced, {why}")
        stack.restart("api", "-m", "flashpods.api.main")
        why = assert_refused(stack)
        note(f"(6) no controllers when the API looks: limits_not_enforced, {why}")


def test_interrupt_leaves_nothing(root_controllers: Callable[[], str], note: Note) -> None:
    with up("interrupted") as stack:
        jobs = [stack.submit("while :; do sleep 1; done") for _ in range(2)]
        for job in jobs:
            stack.running(job)
        assert stack.container_cgroup(jobs[0]).is_dir()
        seconds = stack.stop()
        left = left_behind()
    assert left == []
    assert not list(STATE.glob("interrupted/engine/podman.sock"))
    note(
        f"(7) ctrl-C with two jobs running: ended in {seconds:.1f} s; cgroups, processes and "
        f"mounts left: {len(left)}; on below the root of the hierarchy: {root_controllers()}"
    )
