"""The peer of a Unix socket, as the kernel tells it (unix(7), pidfd_open(2)).

The kernel notes who called connect(2). Whoever that process then gives the connected socket to, by
fork or SCM_RIGHTS, speaks in its name; that takes its help, and whoever would help another
container so could as well tell it the secrets.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from errno import ENOPROTOOPT
from pathlib import Path
from typing import Final, Protocol, overload

from flashpods.adapters.podman.cgroups import PROC, cgroup_of

SO_PEERPIDFD: Final = 77  # asm-generic/socket.h, Linux 6.5; Python 3.11 has no name for it
_UCRED: Final = struct.Struct("3i")


class Socket(Protocol):
    """What is needed of a socket: asyncio's and uvloop's both give something like one."""

    @overload
    def getsockopt(self, level: int, name: int, /) -> int: ...
    @overload
    def getsockopt(self, level: int, name: int, size: int, /) -> bytes: ...
    def getsockopt(self, level: int, name: int, size: int = ..., /) -> int | bytes:
        """As ``socket.socket``'s."""
        ...


class SocketPeer:
    """The process that opened the connection.

    It is held by a pidfd. Its pid names it only as long as it lives, which is looked at after
    whatever was read by its pid was read.
    """

    def __init__(self, sock: Socket, *, proc: Path = PROC) -> None:
        """Take hold of the peer.

        Raises:
            OSError: it has gone already.
        """
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        self.pid, self.uid, _ = _UCRED.unpack(raw)
        self._proc = proc
        self._pidfd = _pidfd(sock, self.pid)

    def cgroup(self) -> str | None:
        """Return its cgroup now; None if it has died or is not to be seen from here."""
        path = cgroup_of(self.pid, proc=self._proc) if self.pid > 0 else None
        return path if path is not None and self._alive() else None

    def close(self) -> None:
        """Close the pidfd; repeated calls are fine."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def _alive(self) -> bool:
        if self._pidfd < 0:
            return False
        # A pidfd is readable once the process is dead.
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return not poll.poll(0)


def _pidfd(sock: Socket, pid: int) -> int:
    """Return a pidfd of the peer.

    Before Linux 6.5 it is opened by pid, which leaves the time from its connect(2) until now for a
    dead peer's pid to be given to another process.
    """
    try:
        return sock.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    except OSError as e:
        if e.errno != ENOPROTOOPT:
            raise
        return os.pidfd_open(pid)
