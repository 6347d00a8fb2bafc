"""Knocks at doors, as whoever and wherever it is run; prints what came of each, as JSON.

    python -I knock.py '{"seconds": 3, "tcp": [["10.0.0.1", 8080]], "unix": ["/run/x.sock"]}'

Standard library only: it runs in a job's network namespace, or as another user. An answer is
``open``, with ``hear`` the first bytes that came, or the name of an error: ``ECONNREFUSED``,
``ETIMEDOUT``, ``EACCES``, …
"""

from __future__ import annotations

import errno
import json
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

__all__: list[str] = []

HEAR_BYTES = 64


def knock(family: int, address: Any, seconds: float, *, hear: bool) -> str:
    """Return what came of one connection."""
    door = socket.socket(family, socket.SOCK_STREAM)
    with door:
        door.settimeout(seconds)
        try:
            door.connect(address)
            return door.recv(HEAR_BYTES).decode("latin-1") if hear else "open"
        except TimeoutError:
            return "ETIMEDOUT"
        except OSError as e:
            return errno.errorcode.get(e.errno or 0, type(e).__name__)


def main() -> None:
    """Knock at all doors at once."""
    plan = json.loads(sys.argv[1])
    seconds, hear = float(plan.get("seconds", 3)), bool(plan.get("hear"))
    doors: list[tuple[int, Any]] = []
    for host, port in plan.get("tcp", []):
        doors.append((socket.AF_INET6 if ":" in host else socket.AF_INET, (host, port)))
    doors += [(socket.AF_UNIX, path) for path in plan.get("unix", [])]
    with ThreadPoolExecutor(max_workers=32) as pool:
        said = pool.map(lambda door: knock(door[0], door[1], seconds, hear=hear), doors)
        sys.stdout.write(json.dumps(list(said)))


if __name__ == "__main__":
    main()
