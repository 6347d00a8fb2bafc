"""Starts of our programs without those of an interpreter, for tests that make a thousand of them.

A process that has imported everything is asked to fork, and the child runs a program's ``main``.
What is so started differs from a real start in nothing else; half of the CPU time of a start are
imports.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ANSWER_SECONDS = 120


class Child:
    """What :class:`flashpods_dev.service.Service` needs of :class:`subprocess.Popen`."""

    def __init__(self, zygote: Zygote, pid: int) -> None:
        """Take a child of the zygote."""
        self.pid = pid
        self._zygote = zygote
        self._code: int | None = None
        self._descriptor = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""
        return self._look(0)

    def wait(self, timeout: float) -> int:
        """Return the exit code.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        code = self._look(timeout)
        if code is None:
            raise subprocess.TimeoutExpired("zygote", timeout)
        return code

    def _look(self, seconds: float) -> int | None:
        if self._code is None and select.select([self._descriptor], [], [], seconds)[0]:
            status = self._zygote.ask({"wait": self.pid})
            self._code = os.waitstatus_to_exitcode(status)
            os.close(self._descriptor)
        return self._code


class Zygote:
    """The asking side."""

    def __init__(self, argv: Sequence[str], cwd: Path) -> None:
        """Start it; ``argv`` is :func:`main`, wrapped."""
        self._process = subprocess.Popen(
            argv, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )

    def fork(self, program: str, arguments: Sequence[str], log: Path) -> Child:
        """Have a child run ``api`` or ``cleanup``, its output appended to ``log``."""
        request = {"program": program, "arguments": list(arguments), "log": str(log)}
        return Child(self, self.ask(request))

    def ask(self, request: Mapping[str, Any]) -> int:
        """Send a request and return its answer."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
        if not select.select([process.stdout], [], [], ANSWER_SECONDS)[0]:
            raise TimeoutError("the zygote does not answer")
        return int(process.stdout.readline())

    def close(self) -> None:
        """End it; its children are others' to end."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait(ANSWER_SECONDS)


def main() -> None:
    """Serve requests until standard input ends."""
    # Late, since whoever asks imports this module as well.
    from flashpods import bootstrap, cleanup_main  # noqa: F401, PLC0415
    from flashpods.api import main as api_main  # noqa: PLC0415

    programs = {"api": api_main.main, "cleanup": cleanup_main.main}
    for line in sys.stdin.buffer:
        request = json.loads(line)
        if "wait" in request:
            answer = os.waitpid(request["wait"], 0)[1]
        else:
            answer = os.fork()
            if answer == 0:
                _become(request["log"])
                programs[request["program"]](request["arguments"])
                sys.exit(0)
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


def _become(log: str) -> None:
    """Be a process of one's own, as :class:`~flashpods_dev.service.Service` starts it."""
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (output, 1), (output, 2)):
        os.dup2(source, target)


if __name__ == "__main__":
    main()
