"""Network namespaces without names, and processes that speak in lines.

For a network made of several machines, in tests and in the lab. A namespace is held by a process
and found by its pid, so nothing is left of it when that ends; the machine's own network is not
touched.
"""

from __future__ import annotations

import ctypes
import select
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from flashpods_dev.machine import StackError

CLONE_NEWNET: Final = 0x40000000  # sched.h
OWN: Final = Path("/proc/self/ns/net")
SECONDS: Final = 60  # for anything here to start, to answer and to end, on a loaded machine


class Process:
    """A child that says a line when it is up, takes lines and answers each with one."""

    def __init__(self, argv: Sequence[str], *, ready: str = "ready", **options: Any) -> None:
        self._child = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, **options
        )
        self.pid = self._child.pid
        said = self.line()
        if said != ready:
            self.end()
            raise StackError(f"{argv[0]} said {said!r} instead of {ready!r}: {argv}")

    def line(self, seconds: float = SECONDS) -> str:
        """Return the next line."""
        out = self._child.stdout
        assert out is not None  # both are pipes
        if not select.select([out], [], [], seconds)[0]:
            self.end()
            raise StackError(f"nothing within {seconds} s from {self._child.args!r}")
        line: str = out.readline()
        return line.strip()

    def ask(self, text: str, seconds: float = SECONDS) -> str:
        """Send a line, return the answer."""
        self.tell(text)
        return self.line(seconds)

    def tell(self, text: str) -> None:
        """Send a line."""
        assert self._child.stdin is not None  # a pipe
        self._child.stdin.write(text + "\n")
        self._child.stdin.flush()

    def end(self) -> None:
        """Kill and reap it; repeated: nothing."""
        with suppress(ProcessLookupError):
            self._child.kill()
        self._child.wait(SECONDS)
        for stream in (self._child.stdin, self._child.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()


class Namespace:
    """A network namespace, held by a process."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        hold = ["unshare", "--net", "sh", "-c", "ip link set lo up && echo ready && exec cat"]
        holder = Process(hold)
        stack.callback(holder.end)
        self.pid = holder.pid

    @property
    def enter(self) -> list[str]:
        """The words that put a command into it."""
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", "--"]

    def run(self, *argv: str, text: str | None = None) -> str:
        """Run a command as root to its end and return what it printed."""
        done = subprocess.run(
            [*self.enter, *argv],
            input=text,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        if done.returncode:
            raise StackError(f"{' '.join(argv)}: {done.stderr.strip()}")
        return done.stdout

    def ip(self, *commands: str) -> None:
        """Run lines of ip(8)."""
        self.run("ip", "-batch", "-", text="\n".join([*commands, ""]))

    def set(self, name: str, value: str) -> None:
        """Set a parameter of it, such as ``net/ipv4/ip_forward``."""
        self.run("sh", "-c", 'echo "$1" >"/proc/sys/$0"', name, value)

    def start(self, *argv: str, **options: Any) -> Process:
        """Start a process as root that ends with the lab."""
        process = Process([*self.enter, *argv], **options)
        self._stack.callback(process.end)
        return process

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Have this thread in it, and the processes that it starts."""
        libc = ctypes.CDLL(None, use_errno=True)
        with OWN.open() as back, Path(f"/proc/{self.pid}/ns/net").open() as there:
            _setns(libc, there.fileno())
            try:
                yield
            finally:
                _setns(libc, back.fileno())


def _setns(libc: ctypes.CDLL, descriptor: int) -> None:
    if libc.setns(descriptor, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
