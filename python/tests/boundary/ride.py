"""One long connection: ``ride.py ADDRESS PORT``; echoes a line over it for each line it is given.

Answers ``echoed``, or why not.
"""

from __future__ import annotations

import socket
import sys


def main() -> None:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=30) as client:
        print("ready", flush=True)
        for line in sys.stdin:
            # An answer comes at once, or when it is its turn; what is refused may never have one.
            client.settimeout(1 if line.startswith("refused") else 30)
            try:
                client.sendall(line.encode())
                said = client.recv(100).decode()
            except OSError as e:
                said = f"{type(e).__name__}"
            print("echoed" if said == line else said, flush=True)


if __name__ == "__main__":
    main()
