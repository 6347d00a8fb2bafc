"""uvicorn as a service of systemd: it says when it listens, that it lives, and that it stops."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp

from flashpods import sdnotify
from flashpods.web.protocol import Protocol

BACKLOG: Final = 1024


class Server(uvicorn.Server):
    """A server that a subclass tells what else to do as it starts and stops."""

    def __init__(self, config: uvicorn.Config) -> None:
        """Serve what the configuration says."""
        super().__init__(config)
        self._alive: asyncio.Task[None] | None = None

    def listening(self, sock: socket.socket) -> None:
        """Is called when the (first) socket listens."""

    def stopping(self) -> None:
        """Is called before connections are closed."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on SIGTERM and SIGINT; uvicorn's own would raise them again after a clean stop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen, then tell whoever waits for it."""
        await super().startup(sockets=sockets)
        if self.started:
            if sockets:
                self.listening(sockets[0])
            sdnotify.notify(sdnotify.READY)
            self._alive = asyncio.create_task(sdnotify.keep_alive(), name="watchdog")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Say that we stop, then stop."""
        sdnotify.notify(sdnotify.STOPPING)
        self.stopping()
        await super().shutdown(sockets=sockets)


def configuration(
    app: ASGIApp,
    *,
    http: type[Protocol],
    lifespan: bool,
    keep_alive_seconds: float,
    shutdown_seconds: float,
) -> uvicorn.Config:
    """Return uvicorn's configuration; it takes whole seconds, one at least."""
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=http,
        ws="none",
        lifespan="on" if lifespan else "off",
        access_log=False,
        log_config=None,
        server_header=False,
        # Nothing is in front of us; a forwarded address would choose its own rate limit.
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=max(1, int(keep_alive_seconds)),
        timeout_graceful_shutdown=max(1, int(shutdown_seconds)),
    )


def loop() -> Any:
    """Make uvloop's loop; it is imported here so that a look at ``--help`` stays quick."""
    import uvloop  # noqa: PLC0415 - see above

    return uvloop.new_event_loop()
