"""POST /jobs to ``running``, beside raw REST create+start and beside ``podman run``."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
        name = f"bench_{i + 2}"
        mine = _post(api)
        _settle()
        theirs = _create_and_start(raw, name, mounts)
        _settle()
        shell = _podman_run(stack, f"{name}_cli")
        _settle()
        if i >= 0:
            ours.append(mine)
            rest.append(theirs)
            cli.append(shell)
    return _results(ours, rest, cli)


def _results(ours: list[float], rest: list[float], cli: list[float]) -> list[Result]:
    mine_ms = p50(ours) * 1000
    note = f"p50 of {len(ours)}, in turn"
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
            peer_name="podman run, to its first output",
            peer=p50(cli) * 1000,
            goal=0.5,
            at_most=True,
            note=note,
        ),
    ]


def _post(api: Api) -> float:
    """Return the seconds from the request to ``running``; the job has ended then."""
    began = time.perf_counter()
    job_id = api.run(SLEEP)
    job = api.until(job_id, "running")
    taken = time.perf_counter() - began
    if job["started_at"] is None:
        raise RuntimeError(f"the job did not run: {job}")
    api.until(job_id)
    return taken


def _create_and_start(raw: RawPodman, name: str, mounts: list[dict[str, Any]]) -> float:
    """Return the seconds of the engine's two calls; the container is gone then."""
    began = time.perf_counter()
    raw.create_and_start(name, ["/bin/sh", "-c", SLEEP], mounts)
    taken = time.perf_counter() - began
    raw.remove(name)
    return taken


def _settle() -> None:
    """Wait until the last container's conmon and its clean-up have left the CPUs alone."""
    until = time.monotonic() + 15
    while any(b"/conmon" in line or b"cleanup\0" in line for line in _command_lines()):
        if time.monotonic() > until:
            raise RuntimeError("a container of the last round does not go")
        time.sleep(0.02)


def _command_lines() -> Iterator[bytes]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has just ended
            yield path.read_bytes()


def _podman_run(stack: MiniStack, name: str) -> float:
    """Run a container in the foreground; return the seconds until its command's first output."""
    home = stack.layout.engine / "home"
    options = ["--userns=keep-id", "--network=slirp4netns", "--cap-drop=ALL", "--init", "--rm"]
    options += ["--security-opt=no-new-privileges", f"--cgroup-parent={stack.cgroup_parent}/{name}"]
    options += [f"--volume={home}:/work", f"--volume={home}:/artifacts", "--pull=never"]
    command = [stack.info.image, "/bin/sh", "-c", f"echo up; {SLEEP}"]
    began = time.perf_counter()
    with stack.start_podman("run", f"--name={name}", *options, *command) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        taken = time.perf_counter() - began
    if line != b"up\n" or process.returncode:
        raise RuntimeError(f"podman run: {line!r}, exit {process.returncode}")
    return taken
