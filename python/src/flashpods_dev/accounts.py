"""The stack's user, written into a copy of ``/etc`` that only the namespace sees."""

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


def install(directory: Path, home: Path) -> None:
    """Put a copy of ``/etc`` with our account over the machine's, in this mount namespace only.

    The whole directory, because a bind over one file ends when the machine replaces that file, as
    every package does that adds a user: all stacks would lose their account.

    Args:
        directory: where the copy goes; it does not exist, and only this namespace sees it.
        home: the account's; made here. Conmon runs ``podman container cleanup`` without HOME, and
            a container whose cleanup fails is never seen as exited.
    """
    home.mkdir(parents=True, exist_ok=True)
    os.chown(home, UID, UID)
    _run(["cp", "--archive", "/etc", str(directory)])
    passwd, group = ((directory / name).read_text() for name in ("passwd", "group"))
    for name, text in render(passwd, group, home).items():
        if not (directory / name).exists():
            raise StackError(f"/etc/{name} is missing: apt-get install uidmap passwd")
        (directory / name).write_text(text)
    _run(["mount", "--bind", str(directory), "/etc"])


def _run(argv: list[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise StackError(f"{' '.join(argv)}: {done.stderr.strip()}")
