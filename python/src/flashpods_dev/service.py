"""One process of the stack: started in its cgroup, as its user, with its log in a file."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from flashpods_dev.machine import UID, StackError
from flashpods_dev.zygote import Child

PATIENCE = 120.0  # seconds for what takes one, on a machine that is slow, loaded, or stalls
# The shell writes its own pid, which the command keeps: no window in which it is elsewhere.
JOIN = 'echo $$ >"$0" && exec "$@"'
# Podman keeps its locks in /dev/shm under the user's number, and a store that comes up frees them
# all: two stores of one user need two of them.
OWN_SHM = 'mount --bind "$0" /dev/shm && mount --make-rshared / && exec "$@"'


def as_user(argv: Sequence[str], env: Mapping[str, str], *, uid: int = UID) -> list[str]:
    """Wrap a command so that it runs as the stack's user with exactly this environment.

    Another ``uid`` gets the stack's user's group and no other.
    """
    return [
        *("setpriv", f"--reuid={uid}", f"--regid={UID}", "--clear-groups"),
        *("env", "-i", *(f"{key}={value}" for key, value in env.items())),
        *argv,
    ]


def in_cgroup(cgroup: Path, argv: Sequence[str]) -> list[str]:
    """Wrap a command so that it joins a cgroup before it runs."""
    return ["/bin/sh", "-c", JOIN, str(cgroup / "cgroup.procs"), *argv]


def with_shm(shm: Path, argv: Sequence[str]) -> list[str]:
    """Wrap a command so that it sees ``shm`` as ``/dev/shm``, in a mount namespace of its own."""
    own = ["unshare", "--mount", "--propagation", "private", "/bin/sh", "-c", OWN_SHM, str(shm)]
    return [*own, *argv]


class Service:
    """A process that can be killed and started again; its pid is that of the command itself."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str] | Callable[[], Sequence[str]],
        *,
        log: Path,
        ready: Callable[[], bool],
        cwd: Path,
        twins: bool = False,
        fork: Callable[[Path], Child] | None = None,
        passes: Callable[[], Sequence[int]] = tuple,
        patience: float = PATIENCE,
    ) -> None:
        """Keep the recipe; nothing starts yet.

        Args:
            name: for messages.
            argv: the command, or what gives it at each start; a wrapper in it must exec.
            log: takes its output, appended.
            ready: is polled after the start.
            cwd: where it runs.
            twins: whether children that run the same program are part of it. Rootless Podman
                starts itself again in the user namespace, and that child is the one that serves.
            fork: starts it instead of ``argv``, given the log.
            passes: gives the descriptors that it inherits.
            patience: seconds that it may take to be ready.
        """
        self.name = name
        self.log = log
        self._argv = argv
        self._ready = ready
        self._cwd = cwd
        self._twins = twins
        self._fork = fork
        self._passes = passes
        self._patience = patience
        self._process: subprocess.Popen[bytes] | Child | None = None

    @property
    def pid(self) -> int:
        """The process id, within the namespace.

        Raises:
            StackError: it was never started.
        """
        if self._process is None:
            raise StackError(f"{self.name} was not started")
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def start(self, *, wait: bool = True) -> None:
        """Start it, and wait until it is ready. Running: nothing happens."""
        if self.alive:
            return
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._process = self._spawn()
        if wait:
            self.wait_ready()

    def _spawn(self) -> subprocess.Popen[bytes] | Child:
        with self.log.open("ab") as log:
            if self._fork is not None:
                os.chown(self.log, UID, UID)
                return self._fork(self.log)
            return subprocess.Popen(
                list(self._argv() if callable(self._argv) else self._argv),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._cwd,
                pass_fds=tuple(self._passes()),
                start_new_session=True,  # a ctrl-C at the terminal reaches the supervisor only
            )

    def wait_ready(self, seconds: float | None = None) -> None:
        """Return when it answers.

        Raises:
            StackError: it ended, or time is up; with the end of its log.
        """
        seconds = seconds or self._patience
        end = time.monotonic() + seconds
        while not self._ready():
            if not self.alive:
                raise StackError(f"{self.name} ended at its start:\n{self.tail()}")
            if time.monotonic() > end:
                raise StackError(f"{self.name} is not ready after {seconds:.0f} s:\n{self.tail()}")
            time.sleep(0.02)

    def tail(self, lines: int = 15) -> str:
        """Return the end of its log."""
        try:
            text = self.log.read_text(errors="replace")
        except OSError as e:
            return f"(no log: {e.strerror})"
        return "\n".join(text.splitlines()[-lines:])

    def kill(self) -> None:
        """SIGKILL, and return when all of it is dead. Dead: nothing happens."""
        with ExitStack() as handles:
            dying = self._signal(signal.SIGKILL, handles)
            self.wait(PATIENCE)
            for handle in dying:  # a twin that dies later would still serve
                select.select([handle], [], [], PATIENCE)

    def terminate(self, seconds: float = PATIENCE) -> int:
        """SIGTERM, then SIGKILL after that time; return the exit code (-9: it was needed)."""
        with ExitStack() as handles:
            self._signal(signal.SIGTERM, handles)
        try:
            return self.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return -int(signal.SIGKILL)

    def restart(self) -> None:
        """Terminate if it runs, start, wait until ready."""
        self.terminate()
        self.start()

    def wait(self, seconds: float) -> int:
        """Return the exit code once it is dead, 0 if it never ran.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        return 0 if self._process is None else self._process.wait(timeout=seconds)

    def _signal(self, number: signal.Signals, handles: ExitStack) -> list[int]:
        """Signal all of it; return pidfds of those that were there, which ``handles`` closes."""
        reached: list[int] = []
        if self.alive:
            for pid in [self.pid, *(twins(self.pid) if self._twins else [])]:
                with suppress(ProcessLookupError):
                    handle = os.pidfd_open(pid)
                    handles.callback(os.close, handle)
                    signal.pidfd_send_signal(handle, number)
                    reached.append(handle)
        return reached


def twins(pid: int) -> list[int]:
    """Return the children of a process, and theirs, that run the same program."""
    program = _program(pid)
    same: list[int] = []
    with suppress(OSError):  # it just ended
        for thread in Path(f"/proc/{pid}/task").iterdir():  # a child belongs to one that forked it
            with suppress(OSError):  # this thread did: the others' children are still there
                children = map(int, (thread / "children").read_text().split())
                same += [c for c in children if program and _program(c) == program]
    return [*same, *(far for near in same for far in twins(near))]


def _program(pid: int) -> Path | None:
    """Return what a process executes; None if it just ended."""
    try:
        return Path(f"/proc/{pid}/exe").readlink()
    except OSError:
        return None
