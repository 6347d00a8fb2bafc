"""What the shell is offered behind a command: ids and names that the host knows.

A completion must neither disturb nor make wait: two seconds, no retry, and silence on any trouble.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from typing import Final

from flashpods.client.client import FlashpodsClient
from flashpods.client.config import ClientConfig
from flashpods.client.errors import ClientError

__all__ = ["artifact_names", "job_ids"]

SECONDS: Final = 2.0
MOST: Final = 50


def job_ids(incomplete: str) -> list[str]:
    """Return the newest jobs' ids that begin so."""

    async def ask(client: FlashpodsClient) -> list[str]:
        return [job.id for job in (await client.jobs("all", MOST)).jobs]

    return [job_id for job_id in _ask(ask) if job_id.startswith(incomplete)]


def artifact_names(job_id: str, incomplete: str) -> list[str]:
    """Return the names of a job's artifacts that begin so."""

    async def ask(client: FlashpodsClient) -> list[str]:
        return [artifact.name for artifact in await client.artifacts(job_id)]

    return [name for name in _ask(ask) if name.startswith(incomplete) and name.isprintable()]


def _ask(question: Callable[[FlashpodsClient], Awaitable[list[str]]]) -> list[str]:
    async def asked() -> list[str]:
        config = dataclasses.replace(ClientConfig.load(), retry_max_attempts=0)
        async with asyncio.timeout(SECONDS), FlashpodsClient(config) as client:
            return await question(client)

    try:
        return asyncio.run(asked())
    except (ClientError, TimeoutError):
        return []
