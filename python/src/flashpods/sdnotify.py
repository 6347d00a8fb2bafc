"""What a service tells systemd (sd_notify(3)): ready, stopping, and that its event loop turns.

Without ``NOTIFY_SOCKET`` in the environment all of it does nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time

READY = "READY=1"
STOPPING = "STOPPING=1"
ALIVE = "WATCHDOG=1"


def notify(state: str) -> bool:
    """Send a state to the service manager; return whether there was one to take it."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]  # the abstract namespace, unix(7)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.setblocking(False)
        # A manager that is away or busy must not hold us up; a missed beat of two does no harm.
        with contextlib.suppress(OSError):
            sock.sendto(state.encode(), address)
            return True
    return False


def reloading() -> bool:
    """Say that the configuration is read again; send :data:`READY` when that is done."""
    return notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")


def watchdog_seconds() -> float | None:
    """Return after how many seconds without a sign of life we are killed; None: never."""
    text, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID")
    if not text.isdecimal() or int(text) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(text) / 1e6


async def keep_alive() -> None:
    """Send signs of life from the event loop, two in each interval, for as long as it turns."""
    interval = watchdog_seconds()
    while interval is not None:
        notify(ALIVE)
        await asyncio.sleep(interval / 2)
