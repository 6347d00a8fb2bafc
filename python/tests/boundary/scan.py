"""Tries TCP ports: ``scan.py FIRST LAST ADDRESS…`` prints JSON: address → open ports, ``tried``.

With the standard library only. A window of connections is kept in flight; one that got no answer
for a second counts as closed.
"""

from __future__ import annotations

import errno
import json
import select
import socket
import sys
import time
from collections import deque
from itertools import product

WINDOW = 400
SECONDS = 1.0
LINGER = (socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a close leaves no TIME_WAIT


def scan(addresses: list[str], ports: range) -> dict[str, object]:
    found: dict[str, list[int]] = {address: [] for address in addresses}
    poller, flying = select.epoll(), {}
    order: deque[tuple[float, int]] = deque()

    def end(number: int, opened: bool) -> None:
        client, address, port = flying.pop(number)
        if opened:
            found[address].append(port)
        poller.unregister(number)
        client.close()

    def settle(patience: float) -> None:
        for number, _ in poller.poll(patience):
            end(number, flying[number][0].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0)
        while order and time.monotonic() - order[0][0] > SECONDS:
            number = order.popleft()[1]
            if number in flying and started[number] <= time.monotonic() - SECONDS:
                end(number, False)

    started: dict[int, float] = {}
    tried = 0
    for address, port in product(addresses, ports):
        tried += 1
        client = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        client.setblocking(False)
        client.setsockopt(*LINGER)
        if client.connect_ex((address, port)) == errno.EINPROGRESS:
            number = client.fileno()
            flying[number] = (client, address, port)
            started[number] = time.monotonic()
            order.append((started[number], number))
            poller.register(number, select.EPOLLOUT)
        else:
            client.close()
        while len(flying) >= WINDOW:
            settle(0.1)
        if tried % 50 == 0:
            settle(0)
    while flying:
        settle(0.1)
    return {**{a: sorted(p) for a, p in found.items()}, "tried": tried}


if __name__ == "__main__":
    first, last = int(sys.argv[1]), int(sys.argv[2])
    print(json.dumps(scan(sys.argv[3:], range(first, last + 1))), flush=True)
