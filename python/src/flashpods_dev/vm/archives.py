"""Archives written without a tool: the initial RAM disk, and the image that the jobs run in."""

from __future__ import annotations

import io
import stat
import tarfile
from collections.abc import Mapping
from pathlib import Path

APPLETS = (
    *("ash", "awk", "cat", "chmod", "cp", "date", "dd", "echo", "env", "false", "grep", "head"),
    *("id", "kill", "ls", "mkdir", "mv", "ps", "rm", "sed", "seq", "sh", "sleep", "sort", "tail"),
    *("test", "timeout", "touch", "tr", "true", "wc", "yes"),
)


def cpio(entries: Mapping[str, tuple[int, bytes]]) -> bytes:
    """Return a cpio archive in the "newc" format, which the kernel unpacks as its first root.

    See Documentation/driver-api/early-userspace/buffer-format.rst in the kernel's tree.

    Args:
        entries: path → mode with its type bits, and the content (of a symbolic link: its target).
    """
    out = bytearray()
    trailer = {"TRAILER!!!": (0, b"")}
    for number, (name, (mode, data)) in enumerate({**entries, **trailer}.items(), 1):
        path = name.encode() + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        # ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        fields = (number, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(path), 0)
        out += b"070701" + "".join(f"{field:08x}" for field in fields).encode() + path
        out += b"\0" * (-len(out) % 4) + data
        out += b"\0" * (-len(out) % 4)
    return bytes(out)


def initrd(busybox: Path, modules: list[Path], init: str) -> bytes:
    """Return an initial RAM disk that loads the modules and runs ``init`` with busybox."""
    directory, program = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o755
    entries: dict[str, tuple[int, bytes]] = dict.fromkeys(
        ("bin", "dev", "lib", "proc", "root", "sys"), (directory, b"")
    )
    entries["bin/busybox"] = (program, busybox.read_bytes())
    entries["bin/sh"] = (stat.S_IFLNK | 0o777, b"busybox")
    for number, module in enumerate(modules):
        entries[f"lib/{number:02}-{module.name}"] = (program, module.read_bytes())
    entries["init"] = (program, init.encode())
    return cpio(entries)


def busybox_root(busybox: Path, target: Path) -> None:
    """Write the root of the jobs' image: one static program under many names, 2 MB.

    The real base image is 200 MB, which takes minutes to import and to map under emulation; what
    the experiments ask of it is a shell and something that eats memory.
    """
    with tarfile.open(target, "w") as tar:
        for name, mode in (("bin", 0o755), ("etc", 0o755), ("usr", 0o755), ("tmp", 0o1777)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            tar.addfile(entry)
        program = busybox.read_bytes()
        _file(tar, "bin/busybox", program, 0o755)
        _file(tar, "etc/passwd", b"root:x:0:0::/:/bin/sh\n", 0o644)
        _file(tar, "etc/group", b"root:x:0:\n", 0o644)
        for applet in APPLETS:
            entry = tarfile.TarInfo(f"bin/{applet}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(entry)


def _file(tar: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    tar.addfile(entry, io.BytesIO(data))
