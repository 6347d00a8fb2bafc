"""Many flows at once, and kept: ``flows.py ADDRESS PORT``, a line of JSON in, a line out.

``["open", PROTOCOL, N]`` begins N more, ``["use"]`` sends a line over each that is open,
``["close"]`` lets them go. The answer counts what came of it: ``{"echoed": N, "refused": N}``, or
an error's name. With the standard library only, as probe.py, whose words these are.
"""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import struct
import sys
from collections import Counter

from probe import SAID

SECONDS = 30.0  # whoever answers or refuses does so at once, or when it is its turn
LINE = b"internet\n"  # an echo's answer, and what servers.py says to a datagram


class Flows:
    """The flows that are open."""

    def __init__(self, address: str, port: int) -> None:
        found = socket.getaddrinfo(address, port)[0]
        self.family, self.at = found[0], found[4]
        self.open: list[socket.socket] = []

    async def begin(self, protocol: str) -> str:
        """Begin a flow, and keep it if somebody answers."""
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        flow = socket.socket(self.family, kind)
        flow.setblocking(False)
        said = await self.exchange(flow, connect=True)
        if said == "echoed":
            self.open.append(flow)
        else:
            flow.close()
        return said

    async def exchange(self, flow: socket.socket, *, connect: bool = False) -> str:
        """Send a line over a flow and wait for the answer."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(SECONDS):
                if connect:
                    await loop.sock_connect(flow, self.at)
                await loop.sock_sendall(flow, LINE)
                return "echoed" if await loop.sock_recv(flow, 100) == LINE else "refused"
        except TimeoutError:
            return "silent"
        except OSError as e:
            return SAID.get(e.errno or 0, f"errno {e.errno}")

    async def do(self, task: list[str]) -> dict[str, int]:
        """Do one of the three; return what came of it."""
        said: list[str] = []
        if task[0] == "open":
            said = await asyncio.gather(*(self.begin(task[1]) for _ in range(int(task[2]))))
        elif task[0] == "use":
            said = await asyncio.gather(*(self.exchange(flow) for flow in self.open))
        else:
            for flow in self.open:
                # By a reset: the rules' count leaves it out at once, whatever the other side does.
                flow.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                flow.close()
            self.open.clear()
        return dict(Counter(said))


async def main() -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    flows = Flows(sys.argv[1], int(sys.argv[2]))
    loop = asyncio.get_running_loop()
    print("ready", flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps(await flows.do(json.loads(line))), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
