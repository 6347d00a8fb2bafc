# ruff: noqa: T201 - a program
"""Reads the API on a kept connection, 50 times a second, until standard input ends.

What would have been due during a slow read counts as well, but is not made up for.

``bystander.py PORT PATH``; the token is the first line of standard input. Prints its latencies.
"""

from __future__ import annotations

import http.client
import json
import select
import sys
import time

EVERY = 0.02  # seconds


def main() -> None:
    port, path = int(sys.argv[1]), sys.argv[2]
    headers = {"Authorization": f"Bearer {sys.stdin.readline().strip()}"}
    seconds: list[float] = []
    errors = 0
    connection = http.client.HTTPConnection(
        "127.0.0.1", port, timeout=60, source_address=("127.0.0.9", 0)
    )
    while True:
        begun = time.perf_counter()
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            answer.read()
            errors += answer.status != 200
        except (OSError, http.client.HTTPException):
            errors += 1
            connection.close()
        took = time.perf_counter() - begun
        if not seconds:
            print("ready", flush=True)
        seconds += [took - number * EVERY for number in range(1 + int(took / EVERY))]
        if select.select([sys.stdin], [], [], max(0.0, EVERY - took))[0]:
            break
    seconds.sort()
    print(
        json.dumps(
            {
                "p50": seconds[len(seconds) // 2],
                "p99": seconds[min(len(seconds) - 1, int(len(seconds) * 0.99))],
                "worst": seconds[-1],
                "calls": len(seconds),
                "errors": errors,
            }
        )
    )


main()
