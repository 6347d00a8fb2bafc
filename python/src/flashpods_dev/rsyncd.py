"""The rsync daemon's configuration: chroot, a uid of its own, munged links, an allow list.

See rsyncd.conf(5). The daemon starts as root because it must chroot; a transfer runs under
numeric ids that no process and no file of ours has.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flashpods.config import Settings
from flashpods_dev.machine import RSYNC_UID

# All is refused but what a push needs, so that an option of a later rsync is refused as well.
# "a" stands for -rlptgoD; devices and specials are taken out again. Left refused with the rest:
# links to other places, copy/write-devices, backup-dir, temp-dir, partial-dir, link-dest,
# compare-dest, files-from, log-file, super, fake-super.
ACCEPTED = (
    "a v delete* copy-dest compress* checksum whole-file partial inplace omit-dir-times "
    "modify-window executability chmod timeout stats ignore-errors force sparse bwlimit info"
)
REFUSED_AGAIN = "devices specials"

# What root may do in the host's unit (modules/rsyncd.nix); a test compares them.
CAPABILITIES = (
    "sys_chroot",
    "setuid",
    "setgid",
    "dac_read_search",
    "kill",
)


def confined(argv: Sequence[str]) -> list[str]:
    """Wrap the daemon's command so that root can do in it what it can on a host, and no more."""
    kept = ",".join(("-all", *(f"+{name}" for name in CAPABILITIES)))
    return ["setpriv", f"--bounding-set={kept}", "--inh-caps=-all", "--no-new-privs", *argv]


def hook(moment: str, settings: Mapping[str, Any]) -> str:
    """Return the shell line of the pre- or post-transfer hook.

    It starts as root, before the chroot, and drops to the database's owner itself. rsync passes
    the line to a shell; ``exec`` keeps that shell from standing between them, ``-P`` keeps the
    working directory off Python's path.
    """
    limits = Settings(**settings).uploads
    argv = [sys.executable, "-P", "-m", "flashpods.rsync_hook", moment]
    argv += ["--database", str(settings["paths"]["database"])]
    argv += ["--max-bytes", str(limits.max_bytes), "--total-bytes", str(limits.total_bytes)]
    argv += ["--max-files", str(limits.max_files)]
    argv += ["--expires-seconds", str(limits.finalize_within_seconds)]
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
