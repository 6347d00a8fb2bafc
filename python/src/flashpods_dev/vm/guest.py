"""The files that make a Debian root a guest: it boots, runs one command, says how it went, ends."""

from __future__ import annotations

from pathlib import Path

CHECKOUT = "/srv/flashpods"  # the checkout, in the guest
COMMAND = ".dev/vm-command"  # the shell script that is run there, from the payload
BEGIN = "FLASHPODS-VM BEGIN"
END = "FLASHPODS-VM END "  # and the exit code

# The first serial port is the kernel's console, the second ours: both are there before any module.
UNIT = f"""[Unit]
Description=The experiments of ./dev vm
After=basic.target systemd-modules-load.service

[Service]
Type=exec
ExecStart=/usr/local/sbin/flashpods-vm
Environment=HOME=/root
WorkingDirectory={CHECKOUT}

[Install]
WantedBy=multi-user.target
"""

SCRIPT = f"""#!/bin/sh
exec </dev/null >/dev/ttyS1 2>&1
stty -F /dev/ttyS1 115200 -opost -echo
echo "{BEGIN}"
tar -xf /dev/vdb -C {CHECKOUT} && sh {COMMAND}
echo "{END}$?"
sync
exec systemctl poweroff --force --force
"""

INIT = """#!/bin/sh
b=/bin/busybox
$b mount -t devtmpfs dev /dev
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
for m in /lib/*.ko; do $b insmod "$m"; done
n=0
while [ ! -b /dev/vda ] && [ $n -lt 200 ]; do $b sleep 0.05; n=$((n+1)); done
$b mount -t ext4 -o rw,noatime /dev/vda /root || exec $b poweroff -f
for d in dev proc sys; do $b mount --move /$d /root/$d; done
exec $b switch_root /root /sbin/init
"""

# What a guest that lives for minutes has no use for.
MASKED = (
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer"),
    *("e2scrub_reap.service", "fstrim.timer", "getty@tty1.service", "getty-static.service"),
    *("nginx.service", "podman.service", "podman.socket", "podman-auto-update.service"),
    *("podman-auto-update.timer", "podman-clean-transient.service", "podman-restart.service"),
    *("rsync.service", "serial-getty@ttyS0.service", "systemd-pstore.service"),
    *("systemd-networkd.service", "systemd-timesyncd.service"),
)


def files() -> dict[str, str]:
    """Return path → text of what is written over the root; a script begins with ``#!``."""
    return {
        "etc/fstab": "/dev/vda / ext4 rw,noatime 0 0\n",
        "etc/hostname": "flashpods-vm\n",
        "etc/hosts": "127.0.0.1 localhost flashpods-vm\n",
        "etc/machine-id": "",
        "etc/modules-load.d/flashpods.conf": "tun\noverlay\n",
        "etc/systemd/system/flashpods-vm.service": UNIT,
        "usr/local/sbin/flashpods-vm": SCRIPT,
    }


def furnish(root: Path) -> None:
    """Write the files, enable our unit, mask what would only slow the boot down."""
    for name, text in files().items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755 if text.startswith("#!") else 0o644)
    units = root / "etc/systemd/system"
    wants = units / "multi-user.target.wants"
    wants.mkdir(parents=True, exist_ok=True)
    (wants / "flashpods-vm.service").symlink_to("/etc/systemd/system/flashpods-vm.service")
    for name in MASKED:
        (units / name).unlink(missing_ok=True)
        (units / name).symlink_to("/dev/null")
