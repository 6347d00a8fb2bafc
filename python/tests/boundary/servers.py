"""Listeners that say who they are: ``servers.py '{"who": …, "tcp": […], "udp": […], …}'``.

Runs in a namespace of its own with nothing but the standard library. ``tcp`` and ``echo`` are
ports, listened on at every address of both families; ``udp`` and ``dns`` are ``[address, port]``,
because a datagram's answer must come from where it was sent to. The line ``ready`` on standard
output says that all are up.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
from functools import partial
from ipaddress import IPv4Address
from typing import cast

ANSWER = "203.0.113.80"  # what every name resolves to


class Says(asyncio.DatagramProtocol):
    """Answers each datagram with a text."""

    def __init__(self, text: bytes) -> None:
        self.text = text

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def answer(self, _question: bytes) -> bytes:
        return self.text

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.transport.sendto(self.answer(data), addr)


class Names(Says):
    """A name server with one address for all names (RFC 1035)."""

    def answer(self, question: bytes) -> bytes:
        wants_ipv4 = question[12:].split(b"\0", 1)[1][:2] == b"\0\1"
        head = question[:2] + b"\x81\x80\0\1" + (b"\0\1" if wants_ipv4 else b"\0\0") + b"\0\0\0\0"
        end = 12 + question[12:].index(0) + 5
        record = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4" + IPv4Address(ANSWER).packed
        return head + question[12:end] + (record if wants_ipv4 else b"")


async def main() -> None:
    plan = json.loads(sys.argv[1])
    text = f"{plan['who']}\n".encode()

    async def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(text)
        writer.close()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):  # a cut connection is what some tests are about
            while line := await reader.readline():
                writer.write(line)

    kept: list[object] = []  # a listener that nobody holds is closed
    for name, answer in (("tcp", greet), ("echo", echo)):
        for port in plan.get(name, []):
            listener = socket.create_server(
                ("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1000
            )
            kept.append(await asyncio.start_server(answer, sock=listener))
    loop = asyncio.get_running_loop()
    for name, protocol in (("udp", Says), ("dns", Names)):
        for address, port in plan.get(name, []):
            at = (address, port)
            kept.append(await loop.create_datagram_endpoint(partial(protocol, text), at))
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
