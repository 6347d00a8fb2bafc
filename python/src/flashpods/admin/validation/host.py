"""The host as the checks see it: its settings, its engine, its API, and places in it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from flashpods.adapters.podman.rest import RestClient
from flashpods.adapters.podman.runtime import PodmanRuntime
from flashpods.admin.validation import knock as knock_module
from flashpods.admin.validation.check import Failed
from flashpods.admin.validation.process import run_json
from flashpods.client.client import FlashpodsClient
from flashpods.client.config import ClientConfig
from flashpods.config import Settings, read_tokens

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Choices", "Host"]

TABLE: Final = ("inet", "flashpods")
KNOCK: Final = str(Path(knock_module.__file__))


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What the operator may choose."""

    image: str | None = None  # for the checks' containers; the workers' default when None
    internet: tuple[str, int] | None = None  # what a job must reach; its git host when None
    laptop_away: bool = False  # whether a laptop that is silent is no failure
    settings_file: Path | None = None  # handed on to our own programs


class Host:
    """A context manager; leaves nothing open."""

    def __init__(self, settings: Settings, choices: Choices) -> None:
        """Open nothing yet."""
        self.settings = settings
        self.choices = choices
        self.runtime = PodmanRuntime(settings.podman)
        self.rest = RestClient(settings.podman.socket, call_seconds=10, calls=2, waits=1)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Have what is closed at the end."""
        self._stack.push_async_callback(self.rest.close)
        self._stack.push_async_callback(self.runtime.close)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        await self._stack.aclose()

    # ------------------------------------------------------------------ the API

    @property
    def api(self) -> tuple[str, int]:
        """Where the API listens."""
        return str(self.settings.http.host), self.settings.http.port

    @property
    def rsync(self) -> tuple[str, int]:
        """Where the rsync daemon listens, as clients are told."""
        host, _, _ = self.settings.uploads.rsync_url.removeprefix("rsync://").partition("/")
        return _host_port(host, 873)

    @property
    def internet(self) -> tuple[str, int]:
        """What a job must reach."""
        if self.choices.internet is not None:
            return self.choices.internet
        scheme, _, host = next(iter(self.settings.identity.git_hosts)).partition("://")
        return _host_port(host, 443 if scheme == "https" else 80)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[FlashpodsClient]:
        """Give the product's client, with the host's own token and without retries.

        Raises:
            ConfigError: the token file can't be used.
        """
        host, port = self.api
        tokens = await asyncio.to_thread(read_tokens, self.settings.http.token_file)
        config = ClientConfig(
            token=tokens[0].decode(),
            api_url=f"http://{f'[{host}]' if ':' in host else host}:{port}",
            rsync_url=self.settings.uploads.rsync_url,
            retry_max_attempts=1,
        )
        async with FlashpodsClient(config) as client:
            yield client

    # ------------------------------------------------------------------ places

    async def knock(
        self,
        *,
        tcp: Sequence[tuple[str, int]] = (),
        unix: Sequence[Path] = (),
        netns_of: int | None = None,
        user: tuple[int, int] | None = None,
        hear: bool = False,
        seconds: float = 3,
    ) -> list[str]:
        """Try to connect and return what came of each door; see :mod:`.knock`.

        Args:
            tcp: addresses and ports.
            unix: sockets' paths.
            netns_of: do it in this process's network namespace.
            user: do it as this uid and gid.
            hear: return the first bytes of each that opens instead of ``open``.
            seconds: for each.
        """
        plan = {"seconds": seconds, "hear": hear, "tcp": tcp, "unix": [str(p) for p in unix]}
        place = [] if netns_of is None else ["nsenter", f"--target={netns_of}", "--net", "--"]
        words = [*place, sys.executable, "-I", KNOCK, json.dumps(plan)]
        said = await run_json(*words, seconds=seconds + 10, user=user)
        return [str(answer) for answer in said]

    async def addresses(self) -> dict[str, str]:
        """Return address → interface, of all that are neither loopback nor link-local."""
        listed = await run_json("ip", "-json", "address", "show")
        return {
            info["local"]: link["ifname"]
            for link in listed
            for info in link.get("addr_info", [])
            if info.get("scope") == "global"
        }

    async def ruleset(self) -> list[dict[str, Any]]:
        """Return the boundary's table as nft's JSON schema has it.

        Raises:
            Failed: it is not loaded.
        """
        try:
            listed = await run_json("nft", "--json", "list", "table", *TABLE)
        except Failed as e:
            raise Failed(
                f"the table {' '.join(TABLE)} is not loaded: {e.reason}",
                "systemctl restart flashpods-firewall; journalctl -u flashpods-firewall",
            ) from None
        return list(listed["nftables"])

    async def counters(self) -> dict[str, int]:
        """Return the packets that each named counter of the boundary has seen."""
        found = (entry.get("counter") for entry in await self.ruleset())
        return {counter["name"]: int(counter["packets"]) for counter in found if counter}

    def user(self) -> tuple[int, int]:
        """Return uid and gid of the user that our API and the engine run as, and so the jobs.

        Raises:
            Failed: there is no directory of the database.
        """
        place = self.settings.paths.database.parent
        try:
            found = place.stat()
        except OSError as e:
            raise Failed(
                f"paths.database: {place}: {e.strerror}", "systemd-tmpfiles --create"
            ) from e
        return found.st_uid, found.st_gid


def _host_port(text: str, default: int) -> tuple[str, int]:
    """Split ``host``, ``host:port``, ``[v6]`` or ``[v6]:port``."""
    host, colon, port = text.rpartition(":")
    if not colon or port.endswith("]"):
        host, port = text, ""
    return host.strip("[]"), int(port) if port else default
