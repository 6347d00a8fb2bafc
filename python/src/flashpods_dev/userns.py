"""Whether the stack's user may use user namespaces, asked only where the kernel may say no.

Ubuntu 24.04 and later set ``kernel.apparmor_restrict_unprivileged_userns``: a program of an
ordinary user that no AppArmor profile allows gets a user namespace without any capability. Podman,
crun and slirp4netns come with such profiles there; unshare(1) does not, and an upload is finalized
under it (docs/decisions/0001). So that is tried, and refused with its remedy at the start, rather
than as a failed upload later. Not tried on an Ubuntu: where the kernel is another, nothing happens.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from flashpods_dev.machine import SUBIDS_COUNT, SUBIDS_START, UID, StackError
from flashpods_dev.service import as_user

RESTRICTED = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
PROBE_SECONDS = 20


def check(scratch: Path, restricted: Path = RESTRICTED) -> None:
    """Try what a finalize does, if the kernel restricts it.

    Raises:
        StackError: it can't be done here; with what helps.
    """
    try:
        if restricted.read_text().strip() != "1":
            return
    except OSError:  # no AppArmor, or one without this restriction
        return
    failure = probe(scratch)
    if failure:
        raise StackError(
            f"the user namespaces of an ordinary user have no capabilities here ({failure}), which "
            f"an upload needs to be finalized: {restricted} is 1. Until the next boot: "
            f"sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
        )


def probe(scratch: Path) -> str:
    """Change a file's owner in a user namespace, as a finalize does; return what went wrong."""
    place = scratch / "userns"
    place.mkdir(exist_ok=True)
    os.chown(place, UID, UID)
    maps = f"{SUBIDS_START},1,{SUBIDS_COUNT}"
    unshare = ["unshare", "--map-root-user", f"--map-users={maps}", f"--map-groups={maps}", "--"]
    change = ["/bin/sh", "-c", 'touch "$0" && chown 1:1 "$0"', str(place / "file")]
    try:
        done = subprocess.run(
            as_user([*unshare, *change], {"PATH": os.environ.get("PATH", os.defpath)}),
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        return str(e)
    said = done.stderr.strip() or f"exit code {done.returncode}"
    return " ".join(said.split())[:200] if done.returncode else ""
