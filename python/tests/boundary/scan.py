"""Tries TCP ports: ``scan.py FIRST LAST ADDRESS…`` prints JSON: address → open ports, ``tried``.

With the standard library only. A window of connections is kept in flight. One without an answer, or
without one that says something, is tried again, with more patience each time; to the last it counts
as closed, and in ``silent``.
"""

from __future__ import annotations

import errno
import functools
import json
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Iterable
from itertools import product
from typing import Any

WINDOW = 400
PATIENCE = (1.0, 2.0, 4.0)  # seconds
LINGER = (socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a close leaves no TIME_WAIT
UNDER_WAY = (0, errno.EINPROGRESS)  # 0: connected at once

Target = tuple[str, int]


class Scan:
    """One round: tries every target once."""

    def __init__(self, patience: float) -> None:
        self.opened: list[Target] = []
        self.silent: list[Target] = []
        self._patience = patience
        self._poller = select.epoll()
        self._flying: dict[int, tuple[socket.socket, Target, float]] = {}
        self._order: deque[tuple[int, float]] = deque()

    def run(self, targets: Iterable[Target]) -> None:
        for number, target in enumerate(targets, 1):
            self._begin(target)
            while len(self._flying) >= WINDOW:
                self._settle(0.1)
            if number % 50 == 0:
                self._settle(0)
        while self._flying:
            self._settle(0.1)
        self._poller.close()

    def _begin(self, target: Target) -> None:
        family, (address, _, *scope) = resolved(target[0])
        client = socket.socket(family)
        client.setblocking(False)
        client.setsockopt(*LINGER)
        if client.connect_ex((address, target[1], *scope)) not in UNDER_WAY:
            client.close()
            return
        began = time.monotonic()
        self._flying[client.fileno()] = (client, target, began)
        self._order.append((client.fileno(), began))
        self._poller.register(client, select.EPOLLOUT)

    def _settle(self, wait: float) -> None:
        for number, _ in self._poller.poll(wait):
            client, target, _ = self._flying[number]
            outcome = ended(client)
            if outcome is None:
                self.silent.append(target)
            elif outcome:
                self.opened.append(target)
            self._end(number)
        while self._order and time.monotonic() - self._order[0][1] > self._patience:
            number, began = self._order.popleft()
            if number in self._flying and self._flying[number][2] == began:
                self.silent.append(self._flying[number][1])
                self._end(number)

    def _end(self, number: int) -> None:
        self._poller.unregister(number)
        self._flying.pop(number)[0].close()


@functools.cache
def resolved(address: str) -> tuple[int, tuple[Any, ...]]:
    """Return family and socket address; with the scope of a link-local one, which a tuple of two
    would lose.
    """
    found = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)[0]
    return found[0], found[4]


def ended(client: socket.socket) -> bool | None:
    """Whether a connection was opened by another; None: the kernel doesn't say.

    Of 16 million refused through slirp4netns, Linux 6.18 had four that epoll called in error, and
    that had neither an error nor a peer. One that was opened and then reset says ECONNRESET. One
    whose own port is the one that it tries meets itself (RFC 9293, section 3.5).
    """
    error = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        return error == errno.ECONNRESET
    try:
        return bool(client.getsockname() != client.getpeername())
    except OSError:
        return None


def scan(addresses: list[str], ports: range) -> dict[str, object]:
    found: dict[str, list[int]] = {address: [] for address in addresses}
    left: Iterable[Target] = product(addresses, ports)
    for patience in PATIENCE:
        scanning = Scan(patience)
        scanning.run(left)
        for address, port in scanning.opened:
            found[address].append(port)
        left = scanning.silent
    return {
        **{address: sorted(opened) for address, opened in found.items()},
        "tried": len(addresses) * len(ports),
        "silent": len(list(left)),
    }


if __name__ == "__main__":
    first, last = int(sys.argv[1]), int(sys.argv[2])
    print(json.dumps(scan(sys.argv[3:], range(first, last + 1))), flush=True)
