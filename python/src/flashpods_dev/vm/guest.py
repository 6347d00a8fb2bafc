"""The files that make a Debian root a guest: it boots, and serves a shell on its own console."""

from __future__ import annotations

from pathlib import Path

from flashpods_dev.lab.verbs import ENVIRONMENT, LINE

CHECKOUT = "/srv/flashpods"  # the checkout, in the guest
DEVICE = "/dev/hvc0"
READY = "lab-shell"

# A quota that never goes: with the first one, and without the last, the kernel patches its own
# code, which QEMU 7.2's emulation of two processors may not survive (panic in dequeue_entities).
SLICE = """[Slice]
CPUQuota=1000%
"""

# Early, so that a boot that hangs can be asked why.
UNIT = f"""[Unit]
Description=The shell of ./dev vm
DefaultDependencies=no
After=systemd-modules-load.service local-fs.target

[Service]
Type=exec
ExecStart=/usr/local/sbin/lab-shell
Slice=lab.slice
{"".join(f"Environment={name}={value}{chr(10)}" for name, value in ENVIRONMENT.items())}
[Install]
WantedBy=sysinit.target
"""

# A line is SECONDS COMMAND, an answer is EXIT-CODE STDOUT STDERR; all but the numbers in base64.
# Output goes to files: what a command leaves running may hold them open.
SHELL = f"""#!/bin/bash
exec <{DEVICE} >{DEVICE}
stty raw -echo
echo {READY}
while read -r seconds command; do
  line=$(printf '{LINE.encode("unicode_escape").decode()}'; base64 --decode <<<"$command")
  code=0
  timeout --kill-after=5 "$seconds" bash -c "$line" </dev/null >/run/shell.out 2>/run/shell.err ||
    code=$?
  echo "$code $(base64 --wrap=0 /run/shell.out) $(base64 --wrap=0 /run/shell.err)"
done
"""

# The payload is unpacked at the first boot; a second one of the same disk is a reboot.
INIT = """#!/bin/sh
b=/bin/busybox
$b mount -t devtmpfs dev /dev
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
for m in /lib/*.ko; do $b insmod "$m"; done
n=0
while [ ! -b /dev/vdb ] && [ $n -lt 200 ]; do $b sleep 0.05; n=$((n+1)); done
$b mount -t ext4 -o rw,noatime /dev/vda /root || exec $b poweroff -f
if [ ! -e /root/.payload ]; then
  $b tar -xf /dev/vdb -C /root || exec $b poweroff -f
  $b touch /root/.payload
fi
for d in dev proc sys; do $b mount --move /$d /root/$d; done
exec $b switch_root /root /sbin/init
"""

# What a guest that lives for minutes has no use for; /tmp is on the disk, as on NixOS.
MASKED = (
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer"),
    *("e2scrub_reap.service", "fstrim.timer", "getty@tty1.service", "getty-static.service"),
    *("nginx.service", "podman.service", "podman.socket", "podman-auto-update.service"),
    *("podman-auto-update.timer", "podman-clean-transient.service", "podman-restart.service"),
    *("rsync.service", "serial-getty@hvc0.service", "serial-getty@ttyS0.service"),
    *("systemd-networkd.service", "systemd-pstore.service", "systemd-timesyncd.service"),
    "tmp.mount",
)


def files() -> dict[str, str]:
    """Return path → text of what is written over the root; a script begins with ``#!``."""
    return {
        "etc/fstab": "/dev/vda / ext4 rw,noatime 0 0\n",
        "etc/hosts": "127.0.0.1 localhost\n",
        "etc/machine-id": "",
        "etc/modules-load.d/flashpods.conf": "overlay\ntun\nvirtio_console\nvirtio_net\n",
        "etc/systemd/system/lab-shell.service": UNIT,
        "etc/systemd/system/lab.slice": SLICE,
        "usr/local/sbin/lab-shell": SHELL,
    }


def furnish(root: Path) -> None:
    """Write the files, enable our unit, mask what would only slow the boot down."""
    for name, text in files().items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755 if text.startswith("#!") else 0o644)
    units = root / "etc/systemd/system"
    wants = units / "sysinit.target.wants"
    wants.mkdir(parents=True, exist_ok=True)
    (wants / "lab-shell.service").symlink_to("/etc/systemd/system/lab-shell.service")
    for name in MASKED:
        (units / name).unlink(missing_ok=True)
        (units / name).symlink_to("/dev/null")
