"""What a job tries: ``{"seconds": S, "cells": [[PROTOCOL, ADDRESS, PORT], …]}`` in, a line out.

The answer is a list beside the cells: what the other side said (``host``, ``internet``), or why
nothing did: ``refused``, ``unreachable``, ``silent`` (nothing within the time), ``none`` (this
container has no way there at all). With the standard library only: it runs in any container.
"""

from __future__ import annotations

import asyncio
import errno
import json
import socket
import sys

SAID = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "refused",
    errno.EHOSTUNREACH: "unreachable",
    errno.EACCES: "unreachable",
    errno.EPERM: "unreachable",
    errno.ENETUNREACH: "none",
    errno.EADDRNOTAVAIL: "none",
    errno.EINVAL: "none",
    errno.ENODEV: "none",
    errno.ENXIO: "none",
}


async def ask(protocol: str, address: str, port: int) -> str:
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    info = socket.getaddrinfo(address, port, type=kind)[0]
    loop = asyncio.get_running_loop()
    with socket.socket(info[0], kind) as client:
        client.setblocking(False)
        await loop.sock_connect(client, info[4])
        if protocol == "udp":
            await loop.sock_sendall(client, b"?")
        return (await loop.sock_recv(client, 100)).decode().strip() or "refused"


async def cell(seconds: float, protocol: str, address: str, port: int) -> str:
    try:
        async with asyncio.timeout(seconds):
            return await ask(protocol, address, port)
    except TimeoutError:
        return "silent"
    except socket.gaierror:
        return "none"
    except OSError as e:
        return SAID.get(e.errno or 0, f"errno {e.errno}")


async def main() -> None:
    loop = asyncio.get_running_loop()
    print("ready", flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        task = json.loads(line)
        said = await asyncio.gather(*(cell(task["seconds"], *c) for c in task["cells"]))
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
