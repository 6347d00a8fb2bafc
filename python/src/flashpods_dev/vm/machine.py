"""A machine in QEMU as an object: boot it, cut its power, run commands in it."""

from __future__ import annotations

import base64
import os
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from flashpods_dev.lab.verbs import Verbs
from flashpods_dev.machine import StackError
from flashpods_dev.netns import Namespace
from flashpods_dev.vm import guest, qemu
from flashpods_dev.vm.build import Image

__all__ = ["PATIENCE", "EmulatedMachine"]

PATIENCE: Final = 5.0  # an emulated processor is so much slower, or more
BOOT_SECONDS: Final = 240
GRACE_SECONDS: Final = 60  # for the shell to say that a command's time is up
ENDED: Final = (124, 137)  # timeout(1)


class Panic(StackError):
    """QEMU ended by itself."""


class EmulatedMachine(Verbs):
    """One machine; a context manager that boots it and leaves nothing running.

    Args:
        name: what messages call it.
        wire: the namespace that holds the other end of its network card, and that end's name.
        image: what it boots.
        payload: what it unpacks over its disk at its first boot.
        state: where its disk is; kept when its power is cut, so that the next boot is a reboot.
    """

    patience = PATIENCE
    look_seconds = 0.5

    def __init__(
        self, name: str, wire: tuple[Namespace, str], image: Image, payload: Path, state: Path
    ) -> None:
        """Boot nothing yet."""
        self.name = name
        self._network, self._tap = wire
        self._image = image
        self._payload = payload
        self._state = state
        self._qemu: subprocess.Popen[bytes] | None = None
        self._shell: socket.socket | None = None
        self._said = b""

    def start(self) -> None:
        """Boot; running: nothing."""
        if self._qemu is None:
            self.boot()

    def boot(self) -> None:
        """Start it, and return when systemd has started everything.

        Once more if its kernel panics before it has a shell: while it patches itself, two emulated
        processors may each see something else.

        Raises:
            StackError: it did not come up; with the end of what its kernel said.
        """
        try:
            self._boot()
        except Panic:
            self._boot()

    def _boot(self) -> None:
        self._state.mkdir(parents=True, exist_ok=True)
        disk = self._state / "disk.qcow2"
        if not disk.exists():
            qemu.make_disk(self._image, disk)
        ours, theirs = socket.socketpair()
        with theirs:
            argv = qemu.arguments(
                self._image,
                disk,
                self._payload,
                tap=self._tap,
                shell=theirs.fileno(),
                console=self.console,
            )
            # It ends with us, however we end.
            argv = ["setpriv", "--pdeathsig", "KILL", *self._network.enter, *argv]
            with (self._state / "qemu.log").open("ab") as log:
                self._qemu = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[theirs.fileno()],
                    env={**os.environ, "TMPDIR": str(self._state)},
                )
        self._shell, self._said = ours, b""
        try:
            end = time.monotonic() + BOOT_SECONDS
            while self._line(end).strip() != guest.READY:
                pass
            self.wait_until_running(end - time.monotonic())
        except BaseException as e:
            e.add_note(self._tail())
            self.crash()
            raise

    @property
    def console(self) -> Path:
        """What the kernel prints."""
        return self._state / "console.log"

    def crash(self) -> None:
        """Cut the power; off: nothing."""
        if self._qemu is not None:
            self._qemu.kill()
            self._qemu.wait()
            self._qemu = None
        if self._shell is not None:
            self._shell.close()
            self._shell = None

    def __enter__(self) -> EmulatedMachine:
        """Boot."""
        self.boot()
        return self

    def __exit__(self, *_: object) -> None:
        """Cut the power: a test's end has nothing to save."""
        self.crash()

    def bash(self, command: str, seconds: float | None) -> subprocess.CompletedProcess[str]:
        """Run a shell line in it, as root; one at a time."""
        if self._shell is None:
            raise StackError(f"{self.name} is off")
        began = time.monotonic()
        text = base64.b64encode(command.encode()).decode()
        self._shell.settimeout(GRACE_SECONDS)
        try:
            self._shell.sendall(f"{seconds or 0:.1f} {text}\n".encode())
        except OSError as e:
            raise StackError(f"{self.name} does not listen: {e}") from e
        # Three fields, of which two may be empty.
        fields = self._line(began + seconds + GRACE_SECONDS if seconds else None).split(" ")
        code, (out, err) = int(fields[0]), (_decoded(field) for field in fields[1:])
        if seconds and code in ENDED and time.monotonic() - began >= seconds:
            raise subprocess.TimeoutExpired(command, seconds, out, err)
        return subprocess.CompletedProcess(command, code, out, err)

    def _line(self, end: float | None) -> str:
        """Return the next line of the shell's console, which must come before ``end``."""
        assert self._shell is not None  # both callers have seen to it
        while b"\n" not in self._said:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                raise StackError(f"{self.name} says nothing: it hangs, or is too slow")
            self._shell.settimeout(left)
            with suppress(TimeoutError):
                part = self._shell.recv(1 << 16)
                if not part:
                    raise Panic(f"{self.name} has ended by itself:\n{self._tail()}")
                self._said += part
        line, _, self._said = self._said.partition(b"\n")
        return line.decode().rstrip("\r")

    def _tail(self) -> str:
        logs = (self._state / "qemu.log", self.console)
        texts = (log.read_text(errors="replace") for log in logs if log.exists())
        return "\n".join("\n".join(texts).splitlines()[-20:])


def _decoded(field: str) -> str:
    return base64.b64decode(field).decode(errors="replace")
