"""The server's one client of the host, opened when a tool first needs it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, TypeVar

from flashpods.client.config import ClientConfig
from flashpods.client.errors import ClientError, ConfigError

if TYPE_CHECKING:
    from flashpods.client import FlashpodsClient  # loads httpx

__all__ = ["Host", "isolated"]

log = logging.getLogger(__name__)

CONFIG_SECONDS: Final = 30.0  # a keyring may ask the user to unlock it

T = TypeVar("T")


class Host:
    """Opens the client on demand.

    A configuration that can't be used is told to the model as any other error, and read again at
    the next call: who mends it need not restart the server.
    """

    def __init__(self, load: Callable[[], ClientConfig] = ClientConfig.load) -> None:
        """Remember how to read the configuration."""
        self._load = load
        self._client: FlashpodsClient | None = None
        self._lock = asyncio.Lock()

    async def client(self) -> FlashpodsClient:
        """Return the open client.

        Raises:
            ConfigError: the configuration can't be used, or there is no token.
        """
        async with self._lock:
            if self._client is None:
                try:
                    async with asyncio.timeout(CONFIG_SECONDS):
                        config = await asyncio.to_thread(self._load)
                except TimeoutError as error:
                    raise ConfigError(
                        "the keyring did not give the token in time; unlock it, or name a file "
                        "in FLASHPODS_API_TOKEN_FILE",
                        code="missing_token",
                    ) from error
                from flashpods.client import FlashpodsClient  # noqa: PLC0415 - loads httpx

                self._client = FlashpodsClient(config, on_retry=_tell)
            return self._client

    async def aclose(self) -> None:
        """Close every connection."""
        client, self._client = self._client, None
        if client is not None:
            await client.__aexit__(None, None, None)


def _tell(error: ClientError, delay: float) -> None:
    log.info("%s (%s); trying again in %.1f s", error.message, error.code, delay)


async def isolated(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine as a task of its own, which a cancelled caller cancels once and waits for.

    The SDK cancels a call through anyio, which interrupts every later ``await`` too; the client's
    clean-up (end rsync, give the upload up) needs awaits, as asyncio's own cancellation lets it.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        task.cancel()
        while not task.done():  # anyio cancels this wait again and again
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError:
                continue
        if not task.cancelled() and task.exception() is not None:
            log.info("a cancelled call ended with %r", task.exception())
        raise
    return task.result()
