"""A machine of the lab as an object: boot it, run commands in it, wait for its units."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final

from flashpods_dev import cgroups
from flashpods_dev.lab.verbs import ENVIRONMENT, LINE, Verbs
from flashpods_dev.machine import Machine, StackError
from flashpods_dev.netns import Namespace

SCRIPTS: Final = ("lab", "init")
BOOT_SECONDS: Final = 60
STOP_SECONDS: Final = 30
POWEROFF: Final = signal.SIGRTMIN + 4  # systemd(1)
LOOK_SECONDS: Final = 0.1


class LabMachine(Verbs):
    """One machine; a context manager that boots it and leaves nothing running.

    Args:
        name: its host name.
        network: the namespace that holds its interfaces.
        layers: directories laid over each other, the topmost first, the base root last.
        machine: the namespace of ./dev.
        state: where it writes; kept when the machine goes, so that the next boot is a reboot.
        patience: multiplies every timeout, where what it waits for is slow.
    """

    def __init__(
        self,
        name: str,
        network: Namespace,
        layers: Sequence[Path],
        machine: Machine,
        state: Path,
        *,
        patience: float = 1.0,
    ) -> None:
        """Boot nothing yet."""
        self.name = name
        self.patience = patience
        self.network = network
        self._layers = list(layers)
        self._state = state
        # Machines of one name may run at once, each with its state: two systemds in one cgroup end
        # each other's processes.
        self._cgroup = machine.cgroup_dir / f"lab-{state.parent.name}-{state.name}"
        self._script = machine.checkout.joinpath(*SCRIPTS)
        self._outer: subprocess.Popen[bytes] | None = None
        self._pid = 0

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        """Boot; running: nothing."""
        if self._outer is None:
            self.boot()

    def boot(self) -> None:
        """Start systemd, and return when it has started everything.

        Raises:
            StackError: it did not come up; the message has the end of its console.
        """
        if self._outer is not None:
            raise StackError(f"{self.name} runs: shut it down first")
        self._state.mkdir(parents=True, exist_ok=True)
        # On a tmpfs of its own an upper directory works on whatever file system the checkout is.
        payload = self._cgroup / "payload"
        (self._cgroup / "outside").mkdir(parents=True, exist_ok=True)
        join = f'echo 0 >"{self._cgroup}/outside/cgroup.procs" && exec "$@"'
        own = ["--mount", "--propagation", "private", "--pid", "--uts", "--ipc", "--fork"]
        layers = ":".join(map(str, self._layers))
        argv = [str(self._script), self.name, layers, str(self._state), str(payload)]
        with self.console.open("ab") as console:
            self._outer = subprocess.Popen(
                [
                    *("/bin/sh", "-c", join, "sh", *self.network.enter),
                    *("unshare", *own, "--kill-child=KILL", *argv),
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
        try:
            self._pid = self._wait_init()
            self.wait_until_running(BOOT_SECONDS)
        except BaseException as e:
            e.add_note(self._tail())
            self.crash()
            raise

    @property
    def console(self) -> Path:
        """What systemd and the kernel's stand-ins print."""
        return self._state / "console.log"

    def shutdown(self) -> None:
        """Power off in order; off: nothing."""
        self._end(POWEROFF)

    def crash(self) -> None:
        """Cut the power."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        if self._outer is None:
            return
        try:
            os.kill(self._pid or self._outer.pid, number)
            self._outer.wait(STOP_SECONDS)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            self._outer.kill()
            self._outer.wait(STOP_SECONDS)
        self._outer, self._pid = None, 0
        if not cgroups.clear(self._cgroup):
            raise StackError(f"processes are left in {self._cgroup}")

    def __enter__(self) -> LabMachine:
        """Boot."""
        self.boot()
        return self

    def __exit__(self, *_: object) -> None:
        """Cut the power: a test's end has nothing to save."""
        self.crash()

    def _wait_init(self) -> int:
        """Return the pid of systemd, as seen from outside."""
        assert self._outer is not None  # boot() has just set it
        children = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children")
        end = time.monotonic() + BOOT_SECONDS
        while time.monotonic() < end and self._outer.poll() is None:
            found = children.read_text().split()
            if found and Path(f"/proc/{found[0]}/comm").read_text().strip() == "systemd":
                return int(found[0])
            time.sleep(LOOK_SECONDS)
        raise StackError(f"{self.name} has no systemd:\n{self._tail()}")

    def _tail(self) -> str:
        return "\n".join(self.console.read_text(errors="replace").splitlines()[-20:])

    # ------------------------------------------------------------------ commands

    def argv(self, *command: str) -> list[str]:
        """Return the words that run a command in the machine, as root."""
        spaces = ["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wdns=/"]
        variables = [f"{key}={value}" for key, value in ENVIRONMENT.items()]
        return [
            "nsenter",
            f"--target={self._pid}",
            *spaces,
            "--",
            "env",
            "-i",
            *variables,
            *command,
        ]

    def bash(self, command: str, seconds: float | None) -> subprocess.CompletedProcess[str]:
        """Run a shell line in it, as root."""
        return subprocess.run(
            self.argv("/bin/bash", "-c", f"{LINE}{command}"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )

    def popen(self, *command: str, stdin: IO[bytes] | int | None = None) -> subprocess.Popen[bytes]:
        """Start a command in it; its output is a pipe."""
        return subprocess.Popen(self.argv(*command), stdin=stdin, stdout=subprocess.PIPE)
