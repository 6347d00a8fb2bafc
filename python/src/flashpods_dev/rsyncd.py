"""The rsync daemon's configuration: chroot, a uid of its own, munged links, an allow list.

See rsyncd.conf(5). The daemon starts as root because it must chroot; a transfer runs under
numeric ids that no process and no file of ours has.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from flashpods_dev.machine import RSYNC_UID, UID

# All is refused but what a push needs, so that an option of a later rsync is refused as well.
# "a" stands for -rlptgoD; devices and specials are taken out again. Left refused with the rest:
# links to other places, copy/write-devices, backup-dir, temp-dir, partial-dir, link-dest,
# compare-dest, files-from, log-file, super, fake-super.
ACCEPTED = (
    "a v delete* copy-dest compress* checksum whole-file partial inplace omit-dir-times "
    "executability chmod timeout stats ignore-errors force sparse bwlimit"
)
REFUSED_AGAIN = "devices specials"


def hook(moment: str, database: Path) -> str:
    """Return the shell line of the pre- or post-transfer hook, run as the stack's user.

    rsync passes the line to a shell; ``exec`` keeps that shell from standing between them.
    """
    argv = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"]
    argv += [sys.executable, "-m", "flashpods.rsync_hook", moment, "--database", str(database)]
    return f"exec {shlex.join(argv)}"


def render(*, transfers: Path, port: int, pid_file: Path, hooks: dict[str, str]) -> str:
    """Return the file."""
    accepted = " ".join(f"!{option}" for option in ACCEPTED.split())
    lines = [
        f"port = {port}",
        "address = 127.0.0.1",
        f"pid file = {pid_file}",
        "reverse lookup = no",
        "",
        "[uploads]",
        f"path = {transfers}",
        "use chroot = yes",
        "munge symlinks = yes",
        "numeric ids = yes",
        f"uid = {RSYNC_UID}",
        f"gid = {RSYNC_UID}",
        "read only = no",
        "write only = yes",
        "list = no",
        "max connections = 16",
        f"lock file = {pid_file}.lock",
        "timeout = 300",
        f"refuse options = * {accepted} {REFUSED_AGAIN}",
        *(f"{moment}-xfer exec = {line}" for moment, line in hooks.items()),
    ]
    return "\n".join([*lines, ""])
