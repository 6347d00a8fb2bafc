"""``flashpods-api``: reads the settings, builds the services, serves until SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from flashpods.allocator import keep_small
from flashpods.api.app import Api, create_app
from flashpods.api.context import Context
from flashpods.config import Settings, load
from flashpods.config_base import ConfigError
from flashpods.logs_setup import configure_logging, join_stdlib_logging
from flashpods.web import metrics_server
from flashpods.web import server as web
from flashpods.web.protocol import Protocol

EX_CONFIG: Final = 78  # sysexits(3)


class Server(web.Server):
    """The API's server: it ends what is held open when told to stop; uvicorn would wait for it."""

    def __init__(self, config: uvicorn.Config, app: Api, ready_fd: int | None) -> None:
        """Serve ``app``; ``ready_fd`` gets one JSON line with the port, then is closed."""
        super().__init__(config)
        self._api = app
        self._ready_fd = ready_fd

    def listening(self, sock: socket.socket) -> None:
        """Tell whoever waits for the port."""
        if self._ready_fd is not None:
            host, port = sock.getsockname()[:2]
            line = json.dumps({"host": host, "port": port, "pid": os.getpid()}) + "\n"
            os.write(self._ready_fd, line.encode())
            os.close(self._ready_fd)
            self._ready_fd = None

    def stopping(self) -> None:
        """End event streams and waits, and begin no other container."""
        self._api.context.held.close()
        self._api.context.services.wind_down()


def configure(app: ASGIApp, settings: Settings) -> uvicorn.Config:
    """Return uvicorn's configuration; the bench uses the same for its bare application."""
    return web.configuration(
        app,
        http=Protocol,
        lifespan=True,
        keep_alive_seconds=30,
        shutdown_seconds=settings.http.shutdown_seconds,
    )


def bind(settings: Settings) -> socket.socket:
    """Bind the API's address.

    Raises:
        ConfigError: it can't be had.
    """
    host, port = settings.http.host, settings.http.port
    family = socket.AF_INET6 if host.version == 6 else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((str(host), port))
    except OSError as e:
        sock.close()
        raise ConfigError(f"http.host {host}, http.port {port}: {e.strerror}") from e
    return sock


async def listen_metrics(context: Context) -> asyncio.Server | None:
    """Listen for scrapes; None where the settings switch that off.

    Raises:
        ConfigError: the address can't be had.
    """
    http = context.services.settings.http
    return await metrics_server.listen(
        "http",
        http.metrics_host,
        http.metrics_port,
        context.services.telemetry.render,
    )


async def serve(settings: Settings, ready_fd: int | None) -> None:
    """Serve until a signal says stop.

    Raises:
        ConfigError: an address is taken, or the services can't be built.
    """
    from flashpods import bootstrap  # noqa: PLC0415 - late: the adapters are its, not ours

    with contextlib.closing(bind(settings)) as sock:
        app = create_app(await bootstrap.build(settings))
        try:
            metrics = await listen_metrics(app.context)
        except ConfigError:
            await app.context.services.stop()
            raise
        try:
            await Server(configure(app, settings), app, ready_fd).serve(sockets=[sock])
        finally:
            if metrics is not None:
                metrics.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program; exits 78 with one line on standard error when it is configured wrongly."""
    parser = argparse.ArgumentParser(prog="flashpods-api", description="Serve the Flashpods API.")
    parser.add_argument("--config", type=Path, metavar="FILE", help="the settings file (JSON)")
    parser.add_argument(
        "--ready-fd", type=int, metavar="N", help="write one JSON line there when listening"
    )
    options = parser.parse_args(arguments)
    configure_logging()
    join_stdlib_logging()
    keep_small()
    try:
        settings = load(options.config)
        with asyncio.Runner(loop_factory=web.loop) as runner:
            runner.run(serve(settings, options.ready_fd))
    except ConfigError as e:
        sys.stderr.write(f"flashpods-api: {e}\n")
        sys.exit(EX_CONFIG)


if __name__ == "__main__":
    main()
