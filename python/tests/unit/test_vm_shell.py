"""The protocol between ``./dev vm`` and the shell of its guest, without a guest."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from flashpods_dev.machine import StackError
from flashpods_dev.vm import guest
from flashpods_dev.vm.build import Image
from flashpods_dev.vm.machine import EmulatedMachine


class Shell(EmulatedMachine):
    """A machine that is nothing but the shell."""

    patience = 1.0

    def __init__(self, directory: Path, end: socket.socket) -> None:
        super().__init__("guest", (None, ""), Image(directory), directory, directory)  # type: ignore[arg-type]
        self._shell = end


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """The guest's script, on a socket instead of a console."""
    script = guest.SHELL.replace(f"exec <{guest.DEVICE} >{guest.DEVICE}\nstty raw -echo\n", "")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = subprocess.Popen(
            ["bash", "-c", script.replace("/run/", f"{tmp_path}/")],
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
        )
        theirs.close()
        machine = Shell(tmp_path, ours)
        assert machine._line(None) == guest.READY
        yield machine
        process.kill()
        process.wait()


def test_output_and_exit_code(shell: Shell) -> None:
    assert shell.succeed("echo one; echo two >&2", "echo three") == "one\nthree\n"
    assert shell.execute("printf '\\377'; exit 3") == (3, "\ufffd")
    assert shell.execute("cat") == (0, "")
    assert len(shell.succeed("seq 100000")) == 588895
    assert len(shell.succeed(f"echo {'x' * 50000}")) == 50001


def test_a_line_is_strict(shell: Shell) -> None:
    assert shell.execute("false | cat")[0] == 1
    assert shell.execute("false; true")[0] == 1
    with pytest.raises(StackError, match=r"failed \(1\):\n.*UNSET: unbound"):
        shell.succeed("echo $UNSET")


def test_a_command_that_is_late_is_ended_and_the_shell_goes_on(shell: Shell) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        shell.bash("echo began; sleep 60", 0.5)
    # A timeout of the command's own is an exit code like any other.
    assert shell.execute("timeout 0.1 sleep 60")[0] == 124


def test_what_a_command_leaves_running_holds_nothing_up(shell: Shell) -> None:
    assert shell.succeed("sleep 120 & echo $!", timeout=60).strip().isdigit()


def test_a_machine_that_has_ended_says_so(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        theirs.close()
        with pytest.raises(StackError, match="does not listen"):
            Shell(tmp_path, ours).execute("true")
