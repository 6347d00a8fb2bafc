"""Cleaning up that an interruption does not interrupt."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

__all__ = ["to_its_end"]


async def to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Do work that nothing cancels: whoever cancels us meanwhile is heard after its end.

    Its own deadline bounds it. Raises what it raises.
    """
    task = asyncio.create_task(work)
    heard: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            heard = error
    task.result()
    if heard is not None:
        raise heard
