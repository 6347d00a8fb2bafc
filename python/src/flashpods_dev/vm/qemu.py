"""QEMU's command line."""

from __future__ import annotations

import subprocess
from pathlib import Path

from flashpods_dev import chroot
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


def make_disk(image: Image, disk: Path) -> None:
    """Make what the guest writes, over the image's disk.

    Raises:
        StackError: qemu-img failed.
    """
    backed = ["-f", "qcow2", "-F", "raw", "-b", str(image.disk)]
    chroot.run(["qemu-img", "create", "-q", *backed, str(disk)])


def arguments(
    image: Image, disk: Path, payload: Path, *, tap: str, shell: int, console: Path
) -> list[str]:
    """Return QEMU's command line: one network card, the kernel's console, a console for our shell.

    What the guest has flushed is on the disk, and nothing else need be: QEMU keeps of a qcow2 file
    what was not flushed, so killing it is a power cut.

    Args:
        image: what is booted.
        disk: of :func:`make_disk`.
        payload: an archive; see :mod:`.guest`.
        tap: the network's interface that is the other end of the card.
        shell: a descriptor, the shell's other end.
        console: gets what the kernel prints.
    """
    return [
        *(PROGRAM, "-name", "flashpods-vm", "-machine", "q35", *acceleration(), "-cpu", "max"),
        *("-smp", "2", "-m", str(MEMORY_MB)),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", KERNEL),
        *("-drive", f"file={disk},if=none,id=d0,format=qcow2,cache=writeback"),
        *("-device", "virtio-blk-pci,drive=d0"),
        *("-drive", f"file={payload},if=none,id=d1,format=raw,read-only=on"),
        *("-device", "virtio-blk-pci,drive=d1", "-device", "virtio-rng-pci"),
        *("-netdev", f"tap,id=n0,ifname={tap},script=no,downscript=no"),
        *("-device", "virtio-net-pci,netdev=n0,romfile="),
        *("-chardev", f"socket,id=shell,fd={shell}", "-device", "virtio-serial-pci"),
        *("-device", "virtconsole,chardev=shell", "-serial", f"file:{console}"),
    ]
