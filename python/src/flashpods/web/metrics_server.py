"""``/metrics`` on a listener of its own, so that the service needs no exception for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from flashpods.config_base import ConfigError
from flashpods.errors import FlashpodsError

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"
REQUEST_SECONDS: Final = 5.0
HEAD_BYTES: Final = 8 * 1024
MOST_SCRAPES: Final = 8

Render = Callable[[], Awaitable[bytes]]


async def listen(
    section: str, host: IPv4Address | IPv6Address | None, port: int, render: Render
) -> asyncio.Server | None:
    """Listen where the settings say; None where they switch it off.

    Args:
        section: the settings' section that has ``metrics_host`` and ``metrics_port``.
        host: the address, or None.
        port: the port.
        render: makes the text of a scrape; may raise a FlashpodsError.

    Raises:
        ConfigError: the address can't be had; one line.
    """
    if host is None:
        return None
    slots = asyncio.Semaphore(MOST_SCRAPES)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_SECONDS), slots:
                status, body = await _answer(reader, render)
                kind = CONTENT_TYPE if status == b"200 OK" else b"text/plain; charset=utf-8"
                writer.write(
                    b"HTTP/1.1 %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n"
                    b"connection: close\r\n\r\n" % (status, kind, len(body))
                )
                writer.write(body)
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # a scraper that does not scrape; its own log tells it
        finally:
            writer.close()

    try:
        return await asyncio.start_server(serve, str(host), port, limit=HEAD_BYTES)
    except OSError as e:
        raise ConfigError(
            f"{section}.metrics_host {host}, {section}.metrics_port {port}: "
            f"{e.strerror}; choose another port, or null to switch metrics off"
        ) from e


async def _answer(reader: asyncio.StreamReader, render: Render) -> tuple[bytes, bytes]:
    """Read one request, return (status, body)."""
    head = await reader.readuntil(b"\r\n\r\n")
    method, _, rest = head.partition(b"\r\n")[0].partition(b" ")
    path = rest.partition(b" ")[0].partition(b"?")[0]
    if path != b"/metrics":
        return b"404 Not Found", b"GET /metrics\n"
    if method not in {b"GET", b"HEAD"}:
        return b"405 Method Not Allowed", b"GET /metrics\n"
    try:
        body = await render()
    except FlashpodsError as e:
        return b"503 Service Unavailable", f"{e.message}\n".encode()
    return b"200 OK", b"" if method == b"HEAD" else body
