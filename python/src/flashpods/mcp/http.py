"""Streamable HTTP, for clients that can't start a process: this machine only unless told.

Whoever reaches the port may spawn jobs. So by default it listens on loopback, answers only to
loopback's own names in ``Host`` (a page that rebinds its name to 127.0.0.1 has another), and to no
page of a browser (``Origin``) but its own origin's and those it was told of. Beyond loopback it
wants a bearer token.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvicorn
from mcp.server.transport_security import TransportSecuritySettings
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from flashpods.client.errors import ConfigError
from flashpods.mcp.server import FlashpodsServer

__all__ = ["HttpOptions", "app", "read_token", "serve"]

LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")
GRACE_SECONDS: Final = 3
LEAST_TOKEN: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpOptions:
    """Where to listen and whom to answer."""

    host: str = "127.0.0.1"
    port: int = 8765
    allow_hosts: tuple[str, ...] = ()  # further values of Host, without a port
    allow_origins: tuple[str, ...] = ()  # such as http://localhost:6274
    token: str | None = None

    def check(self) -> None:
        """Refuse to listen beyond loopback without a token and the names it goes by.

        Raises:
            ConfigError: with what is missing.
        """
        if is_loopback(self.host):
            return
        if self.token is None:
            raise ConfigError(
                f"--host {self.host} is not loopback: set FLASHPODS_MCP_TOKEN (or _FILE), which "
                "every client must send as a bearer token"
            )
        if not self.allow_hosts:
            raise ConfigError(
                f"--host {self.host} is not loopback: name what clients call it with --allow-host"
            )


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is this machine's alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def read_token(env: Mapping[str, str]) -> str | None:
    """Return what clients must send, from FLASHPODS_MCP_TOKEN or the file of ..._FILE.

    Raises:
        ConfigError: the file can't be read, or the token is shorter than 16 characters.
    """
    token = env.get("FLASHPODS_MCP_TOKEN", "")
    where = "FLASHPODS_MCP_TOKEN"
    if not token and (named := env.get("FLASHPODS_MCP_TOKEN_FILE")):
        where = named
        try:
            with Path(named).expanduser().open(encoding="utf-8") as file:
                token = file.read(4096)
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read {named}: {error}") from error
    token = token.strip()
    if not token:
        return None
    if len(token) < LEAST_TOKEN or not token.isascii():
        raise ConfigError(f"{where} must hold at least {LEAST_TOKEN} ASCII characters")
    return token


class BearerGate:
    """Lets only requests with the token through."""

    def __init__(self, inner: ASGIApp, token: str) -> None:
        """Guard an application."""
        self._inner = inner
        self._expected = b"Bearer " + token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401 to a request without it."""
        if scope["type"] == "http":
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self._expected):
                body = {"error": "invalid_token", "message": "send FLASHPODS_MCP_TOKEN as bearer"}
                answer = JSONResponse(body, 401, {"WWW-Authenticate": "Bearer"})
                await answer(scope, receive, send)
                return
        await self._inner(scope, receive, send)


def app(server: FlashpodsServer, options: HttpOptions) -> ASGIApp:
    """Return the guarded application, at ``/mcp``."""
    told = options.allow_origins
    names = [*LOOPBACK, *options.allow_hosts]
    security = TransportSecuritySettings(
        enable_dns_rebinding_protection=True,
        allowed_hosts=[form for name in names for form in (name, f"{name}:*")],
        allowed_origins=[*(f"http://{name}:{options.port}" for name in LOOPBACK), *told],
    )
    inner: ASGIApp = server.streamable_http_app(transport_security=security, host=options.host)
    return inner if options.token is None else BearerGate(inner, options.token)


def serve(server: FlashpodsServer, options: HttpOptions) -> None:
    """Serve until SIGINT or SIGTERM. Raises ConfigError for options that are not safe."""
    options.check()
    config: dict[str, Any] = {
        "host": options.host.strip("[]"),
        "port": options.port,
        "log_config": None,  # uvicorn's own writes to standard output
        "access_log": False,
        "timeout_graceful_shutdown": GRACE_SECONDS,
    }
    uvicorn.run(app(server, options), **config)


def options_from(
    host: str,
    port: int,
    allow_hosts: Sequence[str],
    allow_origins: Sequence[str],
    env: Mapping[str, str],
) -> HttpOptions:
    """Return the options of a command line."""
    return HttpOptions(
        host=host,
        port=port,
        allow_hosts=tuple(allow_hosts),
        allow_origins=tuple(allow_origins),
        token=read_token(env),
    )
