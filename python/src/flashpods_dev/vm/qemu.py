"""One run of the guest: start QEMU, show what the guest prints, end it in time."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from flashpods_dev.machine import StackError
from flashpods_dev.vm import guest
from flashpods_dev.vm.build import Image

PROGRAM = "qemu-system-x86_64"
MEMORY_MB = 3072  # two jobs of 1 GB, which is the least a job may ask for, and the system
PROBE_SECONDS = 3
KERNEL = (
    "console=ttyS0,115200 quiet loglevel=4 net.ifnames=0 mitigations=off panic=1 "
    "systemd.show_status=no"
)


def acceleration() -> list[str]:
    """Return QEMU's options for the fastest processor that really works here.

    That /dev/kvm is there says little: inside some virtual machines QEMU aborts at its first use.
    """
    bare = ["-nodefaults", "-no-user-config", "-display", "none", "-m", "64", "-cpu", "max"]
    if Path("/dev/kvm").exists():
        try:
            subprocess.run(
                [PROGRAM, "-accel", "kvm", *bare],
                capture_output=True,
                timeout=PROBE_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:  # it runs
            return ["-accel", "kvm"]
    return ["-accel", "tcg,thread=multi,tb-size=512"]


def arguments(image: Image, payload: Path, console: Path, accel: list[str]) -> list[str]:
    """Return QEMU's command line: no network, a disk that forgets, two serial ports."""
    return [
        *(PROGRAM, "-name", "flashpods-vm", "-machine", "q35", *accel, "-cpu", "max"),
        *("-smp", "2", "-m", str(MEMORY_MB)),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-nic", "none"),
        *("-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", KERNEL),
        *("-drive", f"file={image.disk},if=none,id=d0,format=raw,snapshot=on,cache=unsafe"),
        *("-device", "virtio-blk-pci,drive=d0"),
        *("-drive", f"file={payload},if=none,id=d1,format=raw,read-only=on"),
        *("-device", "virtio-blk-pci,drive=d1", "-device", "virtio-rng-pci"),
        *("-serial", f"file:{console}", "-serial", "stdio"),
    ]


def run(command: list[str], *, seconds: float, console: Path, scratch: Path) -> int:
    """Run the guest to its end and return the exit code of its command.

    Args:
        command: as of :func:`arguments`.
        seconds: the most it may take.
        console: where the kernel's messages are, for the error.
        scratch: takes what the guest writes to its disk.

    Raises:
        StackError: time is up, or the guest ended without saying how its command went.
    """
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", *command],  # it ends with us, however we end
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "TMPDIR": str(scratch)},
        # A ctrl-C at the terminal is ours to act on.
        start_new_session=True,
    )
    late = threading.Event()

    def end() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(seconds, end)
    timer.start()
    try:
        assert process.stdout is not None
        code = _pass_on(process.stdout)
    finally:
        timer.cancel()
        process.kill()
        process.wait()
    if code is None:
        why = f"did not end within {seconds:.0f} s" if late.is_set() else "ended by itself"
        raise StackError(f"the guest {why}; its console: {console}\n{_tail(console)}")
    return code


def _pass_on(lines: Iterable[str]) -> int | None:
    """Print what the guest says; return the exit code that it says at its end."""
    began = time.monotonic()
    for line in lines:
        text = line.rstrip("\r\n")
        if text.startswith(guest.END):
            return int(text.removeprefix(guest.END))
        if text == guest.BEGIN:
            text = f"the guest is up after {time.monotonic() - began:.0f} s"
        print(f"vm| {text}", file=sys.stderr, flush=True)
    return None


def _tail(path: Path) -> str:
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    return "\n".join(lines[-15:])
