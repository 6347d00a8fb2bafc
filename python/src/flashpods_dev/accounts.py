"""The stack's user, written into copies of the account files that only the namespace sees."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from flashpods_dev.machine import SUBIDS_COUNT, SUBIDS_START, UID, USER, StackError


def with_account(text: str, name: str, number: int, line: str) -> str:
    """Return an account file with our line in place of any of that name or number."""
    kept = [
        old
        for old in text.splitlines()
        if old and old.split(":")[0] != name and old.split(":")[2:3] != [str(number)]
    ]
    return "\n".join([*kept, line, ""])


def render(passwd: str, group: str, home: Path) -> dict[str, str]:
    """Return the files of ``/etc`` as the namespace is to see them."""
    subids = f"{USER}:{SUBIDS_START}:{SUBIDS_COUNT}\n"
    return {
        "passwd": with_account(
            passwd, USER, UID, f"{USER}:x:{UID}:{UID}::{home}:/usr/sbin/nologin"
        ),
        "group": with_account(group, USER, UID, f"{USER}:x:{UID}:"),
        "subuid": subids,
        "subgid": subids,
    }


def install(scratch: Path) -> None:
    """Bind our copies over the machine's files, in this mount namespace only.

    The account's home must exist: conmon runs ``podman container cleanup`` without HOME, and a
    container whose cleanup fails is never seen as exited.
    """
    home = scratch / "home"
    home.mkdir(parents=True, exist_ok=True)
    os.chown(home, UID, UID)
    files = render(Path("/etc/passwd").read_text(), Path("/etc/group").read_text(), home)
    for name, text in files.items():
        target = Path("/etc") / name
        if not target.exists():
            raise StackError(f"{target} is missing: apt-get install uidmap passwd")
        (scratch / name).write_text(text)
        subprocess.run(["mount", "--bind", str(scratch / name), str(target)], check=True)
