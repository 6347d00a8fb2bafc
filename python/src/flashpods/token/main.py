"""``flashpods-token-service``: checks what it needs, serves systemd's socket until SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import structlog
import uvicorn

from flashpods import sdlisten, sdnotify
from flashpods.config import Settings, load
from flashpods.config_base import ConfigError
from flashpods.config_tokens import Tokens
from flashpods.errors import Unavailable
from flashpods.logs_setup import configure_logging, join_stdlib_logging
from flashpods.token import secrets
from flashpods.token.app import Parts, TokenService, create_app, render_metrics
from flashpods.token.connection import Connection
from flashpods.token.door import Door
from flashpods.token.metrics import Metrics
from flashpods.token.policy import Policy
from flashpods.token.secrets import Vault
from flashpods.web import metrics_server
from flashpods.web import server as web

EX_TEMPFAIL: Final = 75  # sysexits(3): try again later
EX_CONFIG: Final = 78
UNIT: Final = "flashpods-token-service.socket"
PODMAN_CALLS: Final = 8
SPARE_FDS: Final = 256  # beside two for each connection: its socket and its peer's pidfd

log = structlog.get_logger(__name__)


class Server(web.Server):
    """The server, which reads the secrets again on SIGHUP."""

    def __init__(self, config: uvicorn.Config, reload: Callable[[], None]) -> None:
        """Serve; ``reload`` must not raise."""
        super().__init__(config)
        self._reload = reload

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take SIGHUP too."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        try:
            with super().capture_signals():
                yield
        finally:
            loop.remove_signal_handler(signal.SIGHUP)


class SecretsFile:
    """Fills the vault from the file of the settings."""

    def __init__(self, setting: Path, vault: Vault, metrics: Metrics) -> None:
        """Do nothing yet."""
        self._setting = setting
        self._vault = vault
        self._metrics = metrics

    def fill(self) -> tuple[bool, bool]:
        """Read the file; return whether its secrets are new, and whether it is a credential.

        Raises:
            ConfigError: it can't be used; the vault is as before.
        """
        file, credential = secrets.locate(self._setting, os.environ.get("CREDENTIALS_DIRECTORY"))
        return self._vault.fill(file, credential=credential), credential

    def reload(self) -> None:
        """Read it again; a bad one changes nothing, and is said."""
        sdnotify.reloading()
        try:
            changed, credential = self.fill()
        except ConfigError as e:
            self._metrics.reloaded(ok=False)
            log.warning("secrets not reloaded, the old ones stay", why=str(e))
        else:
            self._metrics.reloaded(ok=True)
            log.info("secrets reloaded", changed=changed)
            if credential and not changed:
                log.warning(
                    "systemd copied this credential when we started, and a reload does not copy it "
                    "again: to take in a new file, restart; callers wait in the socket meanwhile"
                )
        sdnotify.notify(sdnotify.READY)


def configure(app: TokenService) -> uvicorn.Config:
    """Return uvicorn's configuration."""
    tokens = app.parts.settings

    class Timed(Connection):
        head_seconds = tokens.idle_seconds

    return web.configuration(
        app,
        http=Timed,
        lifespan=False,
        keep_alive_seconds=tokens.idle_seconds,
        shutdown_seconds=tokens.shutdown_seconds,
    )


def allow_connections(most: int) -> None:
    """Raise our soft limit of descriptors so that every connection has its two.

    Raises:
        ConfigError: the hard limit is too low.
    """
    needed = 2 * most + SPARE_FDS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ConfigError(
            f"tokens.connections is {most}, which needs {needed} file descriptors, and the limit "
            f"is {hard}: lower the one or raise LimitNOFILE"
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def door_of(tokens: Tokens, cgroup_parent: str, metrics: Metrics) -> Door:
    """Return what lets connections in, by their peer's cgroup and how many there are."""
    from flashpods.adapters.peercred import SocketPeer  # noqa: PLC0415 - late, as are the API's

    return Door(
        cgroup_parent=cgroup_parent,
        most=tokens.connections,
        most_per_peer=tokens.connections_per_peer,
        metrics=metrics,
        peer_of=SocketPeer,
    )


@contextlib.asynccontextmanager
async def wired(settings: Settings, vault: Vault, metrics: Metrics) -> AsyncIterator[Parts]:
    """Build the parts on their adapters, with a trust bundle at hand.

    Raises:
        ConfigError: ``podman.cgroup_parent`` is not set.
        Unavailable: there is no trust bundle within ``tokens.start_seconds``.
    """
    from flashpods.adapters.podman.labels import ContainerLabels  # noqa: PLC0415 - late, as there
    from flashpods.adapters.podman.rest import RestClient  # noqa: PLC0415 - likewise
    from flashpods.adapters.spiffe import authorities  # noqa: PLC0415 - likewise
    from flashpods.adapters.spiffe.bundles import BundleKeeper  # noqa: PLC0415 - likewise
    from flashpods.adapters.spiffe.verify import BundleVerifier  # noqa: PLC0415 - likewise

    tokens, podman = settings.tokens, settings.podman
    if podman.cgroup_parent is None:
        raise ConfigError(
            "podman.cgroup_parent is not set: a caller's container is known by its cgroup below it"
        )
    keeper = BundleKeeper(
        tokens.workload_api, tokens.trust_domain, grace_seconds=tokens.bundle_grace_seconds
    )
    rest = RestClient(
        podman.socket, call_seconds=tokens.podman_seconds, calls=PODMAN_CALLS, waits=1
    )
    keeper.start()
    watch = asyncio.create_task(
        authorities.watch(tokens.workload_api, tokens.trust_domain, metrics.authority_ends.set),
        name="authorities",
    )
    try:
        await keeper.wait(tokens.start_seconds)
        yield Parts(
            settings=tokens,
            vault=vault,
            verifier=BundleVerifier(keeper, tokens.audience),
            types=ContainerLabels(rest, seconds=tokens.podman_seconds),
            door=door_of(tokens, podman.cgroup_parent, metrics),
            metrics=metrics,
        )
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        await keeper.close()
        await rest.close()


async def serve(settings: Settings, sock: socket.socket) -> None:
    """Serve until a signal says stop.

    Raises:
        ConfigError: the secrets can't be used, an address is taken, a limit is too low.
        Unavailable: there is no trust bundle.
    """
    tokens = settings.tokens
    metrics = Metrics()
    vault = Vault(Policy(tokens.policy).names)
    file = SecretsFile(tokens.secrets_file, vault, metrics)
    file.fill()
    allow_connections(tokens.connections)
    async with wired(settings, vault, metrics) as parts:
        scrapes = await metrics_server.listen(
            "tokens", tokens.metrics_host, tokens.metrics_port, lambda: render_metrics(parts)
        )
        try:
            server = Server(configure(create_app(parts)), file.reload)
            await server.serve(sockets=[sock])
        finally:
            vault.empty()
            if scrapes is not None:
                scrapes.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program; one line on standard error when it can't start.

    It exits 78 when it is configured wrongly, which includes the secrets file, and 75 when there
    is no trust bundle yet.
    """
    parser = argparse.ArgumentParser(
        prog="flashpods-token-service",
        description="Give jobs their secrets for their SPIFFE identity.",
        epilog=f"It serves the socket that {UNIT} passes to it; SIGHUP reads the secrets again.",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="the settings file (JSON)")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # it would hold the secrets
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its own lines are no JSON
    configure_logging()
    join_stdlib_logging()
    # It has a line for each request that is no HTTP, with which a job could flood the journal until
    # the audit's lines are dropped.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    try:
        settings = load(options.config)
        with (
            contextlib.closing(sdlisten.unix_listener(UNIT)) as sock,
            asyncio.Runner(loop_factory=web.loop) as runner,
        ):
            runner.run(serve(settings, sock))
    except (ConfigError, Unavailable) as e:
        sys.stderr.write(f"flashpods-token-service: {e}\n")
        sys.exit(EX_CONFIG if isinstance(e, ConfigError) else EX_TEMPFAIL)


if __name__ == "__main__":
    main()
