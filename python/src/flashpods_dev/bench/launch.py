"""POST /jobs to ``running``, beside raw REST create+start and beside ``podman run``."""

from __future__ import annotations

import time

from flashpods_dev.bench.client import Api
from flashpods_dev.bench.report import Result, p50
from flashpods_dev.bench.rest import RawPodman
from flashpods_dev.stack import MiniStack

SLEEP = "sleep 0.5"


def measure(stack: MiniStack, rounds: int) -> list[Result]:
    """Take the three in turn, round by round, so that drift meets all alike."""
    api = Api(stack)
    raw = RawPodman(stack.layout.socket, image=stack.info.image, cgroup_parent=stack.cgroup_parent)
    scratch = stack.layout.engine / "home"
    mounts = [
        {"type": "bind", "source": str(scratch), "destination": target, "options": ["rbind"]}
        for target in ("/work", "/artifacts")
    ]
    ours: list[float] = []
    rest: list[float] = []
    cli: list[float] = []
    for i in range(-2, rounds):  # two rounds warm up
        began = time.perf_counter()
        job_id = api.run(SLEEP)
        job = api.until(job_id, "running")
        mine = time.perf_counter() - began
        if job["started_at"] is None:
            raise RuntimeError(f"the job did not run: {job}")
        api.until(job_id)
        name = f"bench_{i + 2}"
        began = time.perf_counter()
        raw.create_and_start(name, ["/bin/sh", "-c", SLEEP], mounts)
        theirs = time.perf_counter() - began
        raw.remove(name)
        began = time.perf_counter()
        _podman_run(stack, f"{name}_cli")
        shell = time.perf_counter() - began
        raw.remove(f"{name}_cli")
        if i >= 0:
            ours.append(mine)
            rest.append(theirs)
            cli.append(shell)
    mine_ms = p50(ours) * 1000
    note = f"p50 of {rounds}, in turn"
    return [
        Result(
            name="POST /jobs to running",
            unit="ms",
            ours=mine_ms,
            peer_name="REST create+start",
            peer=p50(rest) * 1000,
            goal=1.3,
            at_most=True,
            note=note,
        ),
        Result(
            name="POST /jobs to running",
            unit="ms",
            ours=mine_ms,
            peer_name="podman run -d",
            peer=p50(cli) * 1000,
            goal=0.5,
            at_most=True,
            note=note,
        ),
    ]


def _podman_run(stack: MiniStack, name: str) -> None:
    home = stack.layout.engine / "home"
    options = ["--userns=keep-id", "--network=slirp4netns", "--cap-drop=ALL", "--init"]
    options += ["--security-opt=no-new-privileges", f"--cgroup-parent={stack.cgroup_parent}/{name}"]
    options += [f"--volume={home}:/work", f"--volume={home}:/artifacts", "--pull=never"]
    done = stack.run_podman(
        "run", "-d", f"--name={name}", *options, stack.info.image, "/bin/sh", "-c", SLEEP
    )
    if done.returncode:
        raise RuntimeError(f"podman run: {done.stderr}")
