"""``flashpods-api``: reads the settings, builds the services, serves until SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import structlog
import uvicorn
from starlette.types import ASGIApp

from flashpods import sdnotify
from flashpods.api import metrics_server
from flashpods.api.app import Api, create_app
from flashpods.api.protocol import Protocol
from flashpods.config import ConfigError, Settings, load
from flashpods.logs_setup import configure_logging

EX_CONFIG: Final = 78  # sysexits(3)
BACKLOG: Final = 1024


class Server(uvicorn.Server):
    """uvicorn, which says when it listens and ends what is held open when told to stop."""

    def __init__(self, config: uvicorn.Config, app: Api, ready_fd: int | None) -> None:
        """Serve ``app``; ``ready_fd`` gets one JSON line with the port, then is closed."""
        super().__init__(config)
        self._api = app
        self._ready_fd = ready_fd
        self._alive: asyncio.Task[None] | None = None

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
        if self.started and sockets and self._ready_fd is not None:
            host, port = sockets[0].getsockname()[:2]
            line = json.dumps({"host": host, "port": port, "pid": os.getpid()}) + "\n"
            os.write(self._ready_fd, line.encode())
            os.close(self._ready_fd)
            self._ready_fd = None
        if self.started:
            sdnotify.notify(sdnotify.READY)
            self._alive = asyncio.create_task(sdnotify.keep_alive(), name="watchdog")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End event streams and waits first: uvicorn would wait for them."""
        sdnotify.notify(sdnotify.STOPPING)
        self._api.context.held.close()
        await super().shutdown(sockets=sockets)


def configure(app: ASGIApp, settings: Settings) -> uvicorn.Config:
    """Return uvicorn's configuration; the bench uses the same for its bare application."""
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=Protocol,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        # Nothing is in front of us; a forwarded address would choose its own rate limit.
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(settings.http.shutdown_seconds) or 1,
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


async def serve(settings: Settings, ready_fd: int | None) -> None:
    """Serve until a signal says stop.

    Raises:
        ConfigError: an address is taken, or the services can't be built.
    """
    from flashpods import bootstrap  # noqa: PLC0415 - late: the adapters are its, not ours

    with contextlib.closing(bind(settings)) as sock:
        app = create_app(await bootstrap.build(settings))
        try:
            metrics = await metrics_server.listen(app.context)
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
    _join_stdlib_logging()
    try:
        settings = load(options.config)
        with asyncio.Runner(loop_factory=_loop) as runner:
            runner.run(serve(settings, options.ready_fd))
    except ConfigError as e:
        sys.stderr.write(f"flashpods-api: {e}\n")
        sys.exit(EX_CONFIG)


def _loop() -> Any:
    """Make uvloop's loop; it is imported here so that a look at ``--help`` stays quick."""
    import uvloop  # noqa: PLC0415 - see above

    return uvloop.new_event_loop()


def _join_stdlib_logging() -> None:
    """Let libraries' warnings join our JSON lines."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            method = "error" if record.levelno >= logging.ERROR else "warning"
            fields = {"exc_info": record.exc_info} if record.exc_info else {}
            log = structlog.get_logger(record.name)
            getattr(log, method)(record.getMessage(), logger=record.name, **fields)

    logging.basicConfig(level=logging.WARNING, handlers=[Handler()], force=True)


if __name__ == "__main__":
    main()
