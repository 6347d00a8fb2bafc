"""The outer half of ./dev: start the namespace, pass on signals, leave nothing behind.

    ./dev (this process) ── setpriv --pdeathsig ── unshare ── catatonit (PID 1) ── inside.py
      └ janitor: waits until this process is gone, however it went, then kills and removes

If this process is killed, the kernel kills unshare (its parent-death signal), which kills PID 1
(``--kill-child``), and with PID 1 dies all that the namespace holds: containers, their monitors,
the pause process, the network helpers. Mounts die with the mount namespace. The cgroup directory
and the scratch directory have no such owner, so the janitor removes them.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from flashpods_dev.caller import give_back
from flashpods_dev.machine import VARIABLE

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOP_SECONDS = 60  # more than the inside takes to stop; then it is killed


def run(checkout: Path, arguments: list[str]) -> int:
    """Run ``arguments`` (a command of :mod:`flashpods_dev.inside`) in a namespace.

    Returns:
        Its exit code.
    """
    name = f"flashpods-dev-{secrets.token_hex(4)}"
    scratch = checkout / ".dev" / "run" / name
    scratch.mkdir(parents=True)
    parent = _parent_cgroup()
    plan = {"checkout": str(checkout), "run_dir": str(scratch), "cgroup": f"{parent}/{name}"}
    janitor = subprocess.Popen(
        [
            *("unshare", "--mount", "--propagation", "private"),
            *(sys.executable, "-m", "flashpods_dev.janitor", json.dumps(plan)),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,  # a reader of our output must not wait for it
        start_new_session=True,
        cwd="/",
    )
    try:
        return _namespace(
            [sys.executable, "-m", "flashpods_dev.inside", json.dumps(plan), *arguments]
        )
    finally:
        janitor.communicate()
        give_back(checkout)


def _parent_cgroup() -> str:
    """Return the cgroup to work below: of an outer ./dev when this one runs inside it, or none."""
    return str(json.loads(os.environ.get(VARIABLE, "{}")).get("cgroup", ""))


def _namespace(argv: list[str]) -> int:
    """Run a command as the child of PID 1 of a new namespace; pass on signals."""
    child = subprocess.Popen(
        [
            *("setpriv", "--pdeathsig", "KILL"),
            *("unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"),
            *("--propagation", "private", "catatonit", "--", *argv),
        ]
    )

    def stop(number: int, _frame: FrameType | None) -> None:
        signal.setitimer(signal.ITIMER_REAL, STOP_SECONDS)
        for pid in _children(child.pid):
            os.kill(pid, number)

    def kill(_number: int, _frame: FrameType | None) -> None:
        child.kill()

    before = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    before[signal.SIGALRM] = signal.signal(signal.SIGALRM, kill)
    try:
        code = child.wait()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code


def _children(pid: int) -> list[int]:
    """Return the direct children of a process, none if it is gone."""
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
