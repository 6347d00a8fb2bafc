"""A machine of the lab as an object: boot it, run commands in it, wait for its units.

The verbs are those of the NixOS test driver, so that a test's body can run in either.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final

from flashpods_dev import cgroups
from flashpods_dev.machine import Machine, StackError
from flashpods_dev.netns import Namespace

SCRIPTS: Final = ("lab", "init")
BOOT_SECONDS: Final = 60
STOP_SECONDS: Final = 30
POWEROFF: Final = signal.SIGRTMIN + 4  # systemd(1)
LOOK_SECONDS: Final = 0.1
TIMEOUT: Final = 60.0
# What is wrong with a boot: what has not begun or not ended, what failed, and what it said.
FAILED: Final = """\
systemctl list-jobs --no-pager --no-legend
units=$(systemctl list-units --plain --no-legend --state=failed,activating,auto-restart,reloading)
for unit in $(echo "$units" | awk '{print $1}'); do
  echo "--- $unit"; journalctl -b -u $unit -n 15 --no-pager -o cat || true
done
"""
ENVIRONMENT: Final = {
    "PATH": "/run/current-system/sw/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:"
    "/opt/flashpods/bin:/opt/spire/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    # What NixOS's /etc/profile sets of ours; the test driver's shell has read that. None: nothing.
    "BASH_ENV": "/etc/profile.d/flashpods.sh",
}


class LabMachine:
    """One machine; a context manager that boots it and leaves nothing running.

    Args:
        name: its host name.
        network: the namespace that holds its interfaces.
        layers: directories laid over each other, the topmost first, the base root last.
        machine: the namespace of ./dev.
        state: where it writes; kept when the machine goes, so that the next boot is a reboot.
    """

    def __init__(
        self, name: str, network: Namespace, layers: Sequence[Path], machine: Machine, state: Path
    ) -> None:
        """Boot nothing yet."""
        self.name = name
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
            self._wait_running()
        except BaseException:
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

    def _wait_running(self) -> None:
        end = time.monotonic() + BOOT_SECONDS
        state = ""
        while time.monotonic() < end:
            # No --wait: the bus may not be there yet.
            state = self.execute("systemctl is-system-running")[1].strip()
            if state == "running":
                return
            if state == "degraded":
                break
            time.sleep(LOOK_SECONDS)
        failed = self.execute(FAILED)[1]
        raise StackError(f"{self.name} is {state!r}:\n{failed}\n{self._tail()}")

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

    def execute(self, command: str, timeout: float | None = TIMEOUT) -> tuple[int, str]:
        """Run a shell line; return its exit code and its standard output."""
        done = self._bash(command, timeout)
        return done.returncode, done.stdout

    def _bash(self, command: str, timeout: float | None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv("/bin/bash", "-c", f"set -euo pipefail\n{command}"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )

    def succeed(self, *commands: str, timeout: float | None = TIMEOUT) -> str:
        """Run shell lines that must succeed; return what they printed.

        Raises:
            StackError: one failed; with its output.
        """
        said = ""
        for command in commands:
            done = self._bash(command, timeout)
            if done.returncode:
                raise StackError(
                    f"{self.name}: {command!r} failed ({done.returncode}):\n"
                    f"{done.stdout}{done.stderr}"
                )
            said += done.stdout
        return said

    def fail(self, *commands: str, timeout: float | None = TIMEOUT) -> str:
        """Run shell lines that must fail; return what they printed.

        Raises:
            StackError: one succeeded.
        """
        said = ""
        for command in commands:
            code, output = self.execute(command, timeout)
            if not code:
                raise StackError(f"{self.name}: {command!r} succeeded:\n{output}")
            said += output
        return said

    def wait_until_succeeds(self, command: str, timeout: float = TIMEOUT) -> str:
        """Run a shell line until it succeeds; return what it printed.

        Raises:
            StackError: it failed to the end.
        """
        end = time.monotonic() + timeout
        while True:
            done = self._bash(command, timeout)
            if not done.returncode:
                return done.stdout
            if time.monotonic() > end:
                raise StackError(
                    f"{self.name}: {command!r} failed for {timeout} s:\n{done.stdout}{done.stderr}"
                )
            time.sleep(LOOK_SECONDS)

    def wait_until_fails(self, command: str, timeout: float = TIMEOUT) -> str:
        """Run a shell line until it fails; return what it printed.

        Raises:
            StackError: it succeeded to the end.
        """
        end = time.monotonic() + timeout
        while True:
            code, output = self.execute(command, timeout)
            if code:
                return output
            if time.monotonic() > end:
                raise StackError(f"{self.name}: {command!r} succeeded for {timeout} s:\n{output}")
            time.sleep(LOOK_SECONDS)

    def wait_for_unit(self, unit: str, timeout: float = TIMEOUT) -> None:
        """Return when a unit is active.

        Raises:
            StackError: it failed, or time is up; with its journal.
        """
        end = time.monotonic() + timeout
        while (state := self.execute(f"systemctl is-active {unit}")[1].strip()) != "active":
            if state == "failed" or time.monotonic() > end:
                journal = self.execute(f"journalctl -b -u {unit} -n 30 --no-pager")[1]
                raise StackError(f"{self.name}: {unit} is {state}:\n{journal}")
            time.sleep(LOOK_SECONDS)

    def wait_for_open_port(
        self, port: int, addr: str = "localhost", timeout: float = TIMEOUT
    ) -> None:
        """Return when somebody listens on the port.

        Raises:
            StackError: time is up.
        """
        self.wait_until_succeeds(f"timeout 5 bash -c '</dev/tcp/{addr}/{port}'", timeout)

    def popen(self, *command: str, stdin: IO[bytes] | int | None = None) -> subprocess.Popen[bytes]:
        """Start a command in it; its output is a pipe."""
        return subprocess.Popen(self.argv(*command), stdin=stdin, stdout=subprocess.PIPE)
