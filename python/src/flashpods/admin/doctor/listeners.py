"""Which process listens on a port, by proc(5); as another user than root only one's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
_LISTEN: Final = "0A"  # TCP_LISTEN in /proc/net/tcp
_SHOWN: Final = 120


@dataclass(frozen=True, slots=True)
class Holder:
    """A process, and the beginning of its command line."""

    pid: int
    command: str


def of_port(port: int, proc: Path = PROC) -> list[Holder]:
    """Return who listens on a TCP port, whatever the address."""
    sockets = {f"socket:[{inode}]" for inode in _inodes(port, proc)}
    if not sockets:
        return []
    return [
        Holder(pid, command(pid, proc))
        for pid in sorted(int(p.name) for p in proc.iterdir() if p.name.isdigit())
        if sockets & _open(proc / str(pid) / "fd")
    ]


def command(pid: int, proc: Path = PROC) -> str:
    """Return the first words of a process's command line."""
    try:
        words = (proc / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return "it is not to be seen from here"
    return b" ".join(words[:6]).decode(errors="replace")[:_SHOWN].strip()


def _inodes(port: int, proc: Path) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        lines: list[str] = []
        with suppress(OSError):
            lines = (proc / "net" / table).read_text().splitlines()[1:]
        for line in lines:
            fields = line.split()
            local = fields[1].rpartition(":")[2]
            if fields[3] == _LISTEN and int(local, 16) == port and fields[9] != "0":
                yield fields[9]


def _open(directory: Path) -> set[str]:
    found = set()
    with suppress(OSError):
        for link in directory.iterdir():
            with suppress(OSError):
                found.add(str(link.readlink()))
    return found
