"""A stack of ``./dev up`` in the guest, used and stopped as a person would."""

from __future__ import annotations

import json
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

CHECKOUT = Path(__file__).parents[4]
CGROUPS = Path("/sys/fs/cgroup")
STATE = Path("/var/tmp/flashpods-vm")
UP_SECONDS = 150  # a stack takes 15 to 35 s under emulation
DOWN_SECONDS = 40
JOB_SECONDS = 120
SHOWN = ("memory.max", "memory.swap.max", "cpu.max", "pids.max")


class Stack:
    """A stack of ``./dev up``, seen from outside: its line of JSON, its API, its cgroups."""

    def __init__(
        self, process: subprocess.Popen[str], info: dict[str, str], said: Path, before: list[str]
    ) -> None:
        self.process = process
        self.before = before
        self.info = info
        self.said = said
        self.state = Path(info["state_dir"])
        token = Path(info["token_file"]).read_text().strip()
        self.client = httpx.Client(
            base_url=info["api_url"],
            headers={"Authorization": f"Bearer {token}"},
            trust_env=False,
            timeout=75,
        )

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that its API runs with."""
        found: dict[str, Any] = json.loads((self.state / "settings.json").read_text())
        return found

    @property
    def cgroup(self) -> Path:
        """The delegated subtree of the stack."""
        parent = str(self.settings["podman"]["cgroup_parent"])
        return CGROUPS / parent.strip("/").removesuffix("/ctrs")

    def submit(self, command: str) -> str:
        """POST a worker of 1 CPU and 1 GB; return its id."""
        body = {"type": "worker", "command": command, "cpus": 1, "memory_gb": 1}
        answer = self.client.post("/jobs", json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["job_id"])

    def until(self, job_id: str, ready: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Long-poll the job's row until it is as wanted."""
        end = time.monotonic() + JOB_SECONDS
        row: dict[str, Any] = self.client.get(f"/jobs/{job_id}").json()
        while not ready(row):
            assert time.monotonic() < end, f"not within {JOB_SECONDS} s: {row}"
            row = self.client.get(f"/jobs/{job_id}", params={"wait": 30}).json()
        return row

    def running(self, job_id: str) -> dict[str, Any]:
        """Wait until the job runs and return its row."""
        row = self.until(job_id, lambda row: row["status"] not in {"pending", "starting"})
        assert row["status"] == "running", row
        return row

    def output(self, job_id: str) -> list[str]:
        """Return the job's output, a line each, without the time stamps."""
        answer = self.client.get(f"/jobs/{job_id}/output", params={"tail": 1000})
        if answer.status_code == 404 and answer.json()["error"] == "logs_not_available":
            return []  # it has not started yet
        assert answer.status_code == 200, answer.text
        return [line.split("] ", 1)[-1] for line in answer.json()["output"].splitlines()]

    def printed(self, job_id: str, text: str) -> None:
        """Wait until the job has printed a line that begins with ``text``."""
        soon(
            lambda: any(line.startswith(text) for line in self.output(job_id)),
            f"{text!r} in the output of {job_id}",
            JOB_SECONDS,
        )

    def container_cgroup(self, job_id: str) -> Path:
        """Return the cgroup of the job's container that bears the limits."""
        found = [p for p in (self.cgroup / "ctrs").rglob("*") if p.is_dir()]
        limited = [
            p
            for p in found
            if job_id in str(p) and (p / "memory.max").exists() and number(p / "memory.max")
        ]
        assert limited, f"no limited cgroup of {job_id} among {found}"
        return limited[0]

    def stop(self) -> float:
        """Send what ctrl-C sends, return the seconds to the end; the exit code must be 0."""
        began = time.monotonic()
        self.client.close()
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(DOWN_SECONDS)
        assert code == 0, self.said.read_text()
        return time.monotonic() - began


def number(file: Path) -> int | None:
    """Read a file of a cgroup that holds a number or ``max``."""
    text = file.read_text().strip()
    return None if text == "max" else int(text)


def soon(condition: Callable[[], bool], what: str, seconds: float) -> None:
    """Look at something that has no event until it is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        select.select([], [], [], 0.2)


def left_behind() -> list[str]:
    """Return what a stack must not leave: cgroups, processes, mounts. HOST's engine has some."""
    cgroups = [str(p) for p in CGROUPS.glob("flashpods-dev*")]
    names = {"podman", "conmon", "crun", "catatonit", "slirp4netns", "rsync", "unshare"}
    processes = []
    for comm in Path("/proc").glob("[0-9]*/comm"):
        try:
            name = comm.read_text().strip()
        except OSError:
            continue
        if name in names:
            processes.append(f"{comm.parent.name} {name}")
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    return [*cgroups, *processes, *(m for m in mounts if "flashpods" in m)]


@contextmanager
def up() -> Iterator[Stack]:
    """Run ``./dev up`` as a person would; the caller stops it, or it is killed."""
    state = STATE / "state"
    state.mkdir(parents=True)
    said = STATE / "stderr"
    before = left_behind()
    with said.open("w") as log:
        process = subprocess.Popen(
            [str(CHECKOUT / "dev"), "up", "--state", str(state)],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd="/",
        )
    assert process.stdout is not None
    try:
        ready, _, _ = select.select([process.stdout], [], [], UP_SECONDS)
        line = process.stdout.readline() if ready else ""
        services = "".join(f.read_text()[-1000:] for f in (state / "services").glob("*.log"))
        assert line, f"./dev up did not come up:\n{said.read_text()}\n{services}"
        yield Stack(process, json.loads(line), said, before)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()
