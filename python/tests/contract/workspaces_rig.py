"""Workspaces on disk, and a hostile tree with what is left of it once it is disarmed."""

import os
import stat
from pathlib import Path

from flashpods.adapters.files.workspaces import FileWorkspaces

UPLOAD = "upload_abcdefghijkl"
PASSWD = Path("/etc/passwd")
GB = 2**30


def laid_out(root: Path) -> Path:
    """Make the directories of the workspaces in ``root``, and return it."""
    for name in ("transfers", "finalized", "work"):
        (root / name).mkdir(parents=True)
    return root


def spaces_of(root: Path, **more: int) -> FileWorkspaces:
    return FileWorkspaces(root / "transfers", root / "finalized", root / "work", **more)


def hostile(tree: Path) -> None:
    """Make a tree of everything that finalize must disarm."""
    (tree / "bin").mkdir(parents=True)
    (tree / "bin" / "tool").write_text("#!/bin/sh")
    (tree / "bin" / "tool").chmod(0o6755)
    (tree / "shared").mkdir()
    (tree / "shared").chmod(0o3777)
    (tree / "closed").write_text("closed")
    (tree / "closed").chmod(0)
    (tree / "shut").mkdir()
    (tree / "shut" / "in").write_text("in")
    (tree / "shut").chmod(0)
    (tree / "munged").symlink_to("/rsyncd-munged/bin/tool")
    (tree / "munged_out").symlink_to("/rsyncd-munged//etc/passwd")
    (tree / "plain").symlink_to("bin/tool")
    (tree / "passwd").symlink_to("/etc/passwd")
    os.mkfifo(tree / "fifo")
    os.mknod(tree / "bin" / "s", stat.S_IFSOCK | 0o666)
    if os.geteuid() == 0:
        os.mknod(tree / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))


def passwd() -> os.stat_result:
    """Return what must never change: a file of the host that hostile links point to."""
    return PASSWD.stat()


def modes(tree: Path) -> dict[str, int]:
    return {
        str(p.relative_to(tree)): stat.S_IMODE(p.lstat().st_mode)
        for p in tree.rglob("*")
        if not p.is_symlink()
    }


DISARMED = {
    "bin": 0o755,
    "bin/tool": 0o755,
    "shared": 0o777,
    "closed": 0o600,
    "shut": 0o700,
    "shut/in": 0o644,
}
