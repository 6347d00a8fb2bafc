"""The verbs of a machine: those of the NixOS test driver, so that a test's body can run in either.

Whatever can run a shell line has them: a machine in namespaces, one in QEMU, a network.
"""

from __future__ import annotations

import subprocess
import time
from abc import ABC, abstractmethod
from typing import Final

from flashpods_dev.machine import StackError

__all__ = ["ENVIRONMENT", "FAILED", "LINE", "TIMEOUT", "Verbs"]

TIMEOUT: Final = 60.0
LINE: Final = "set -euo pipefail\n"  # what a shell line begins with, as the driver's do
ENVIRONMENT: Final = {
    "PATH": "/run/current-system/sw/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:"
    "/opt/flashpods/bin:/opt/spire/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    # What NixOS's /etc/profile sets of ours; the test driver's shell has read that. None: nothing.
    "BASH_ENV": "/etc/profile.d/flashpods.sh",
}
# What is wrong with a boot: what has not begun or not ended, what failed, and what it said.
FAILED: Final = """\
systemctl list-jobs --no-pager --no-legend
units=$(systemctl list-units --plain --no-legend --state=failed,activating,auto-restart,reloading)
for unit in $(echo "$units" | awk '{print $1}'); do
  echo "--- $unit"; journalctl -b -u $unit -n 15 --no-pager -o cat || true
done
"""


class Verbs(ABC):
    """What a test does with a machine.

    ``patience`` multiplies every timeout, ``look_seconds`` is the pause between two tries.
    """

    name: str
    patience: float = 1.0
    look_seconds: float = 0.1

    @abstractmethod
    def bash(self, command: str, seconds: float | None) -> subprocess.CompletedProcess[str]:
        """Run a shell line, after :data:`LINE`, within that time.

        Raises:
            subprocess.TimeoutExpired: it did not end.
        """

    def execute(self, command: str, timeout: float | None = TIMEOUT) -> tuple[int, str]:
        """Run a shell line; return its exit code and its standard output."""
        done = self._bash(command, timeout)
        return done.returncode, done.stdout

    def _bash(self, command: str, timeout: float | None) -> subprocess.CompletedProcess[str]:
        return self.bash(command, None if timeout is None else timeout * self.patience)

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
        end = self._until(timeout)
        while True:
            done = self._bash(command, timeout)
            if not done.returncode:
                return done.stdout
            if time.monotonic() > end:
                raise StackError(
                    f"{self.name}: {command!r} failed for {timeout * self.patience} s:\n"
                    f"{done.stdout}{done.stderr}"
                )
            time.sleep(self.look_seconds)

    def wait_until_fails(self, command: str, timeout: float = TIMEOUT) -> str:
        """Run a shell line until it fails; return what it printed.

        Raises:
            StackError: it succeeded to the end.
        """
        end = self._until(timeout)
        while True:
            code, output = self.execute(command, timeout)
            if code:
                return output
            if time.monotonic() > end:
                raise StackError(
                    f"{self.name}: {command!r} succeeded for {timeout * self.patience} s:\n{output}"
                )
            time.sleep(self.look_seconds)

    def wait_for_unit(self, unit: str, timeout: float = TIMEOUT) -> None:
        """Return when a unit is active.

        Raises:
            StackError: it failed, or time is up; with its journal.
        """
        end = self._until(timeout)
        while (state := self.execute(f"systemctl is-active {unit}")[1].strip()) != "active":
            if state == "failed" or time.monotonic() > end:
                journal = self.execute(f"journalctl -b -u {unit} -n 30 --no-pager")[1]
                raise StackError(f"{self.name}: {unit} is {state}:\n{journal}")
            time.sleep(self.look_seconds)

    def wait_for_open_port(
        self, port: int, addr: str = "localhost", timeout: float = TIMEOUT
    ) -> None:
        """Return when somebody listens on the port.

        Raises:
            StackError: time is up.
        """
        self.wait_until_succeeds(f"timeout 5 bash -c '</dev/tcp/{addr}/{port}'", timeout)

    def wait_until_running(self, seconds: float) -> None:
        """Return when systemd has started everything.

        Raises:
            StackError: a unit failed, or time is up; with what the units said.
        """
        end = time.monotonic() + seconds
        state = ""
        while time.monotonic() < end:
            # No --wait: the bus may not be there yet.
            state = self.execute("systemctl is-system-running")[1].strip()
            if state == "running":
                return
            if state == "degraded":
                break
            time.sleep(self.look_seconds)
        raise StackError(f"{self.name} is {state!r}:\n{self.execute(FAILED)[1]}")

    def _until(self, timeout: float) -> float:
        return time.monotonic() + timeout * self.patience
