"""Wakes requests that wait for a job, within this process."""

from __future__ import annotations

import asyncio


class InProcessChanges:
    """One event per job that somebody waits for; nobody waiting costs nothing."""

    def __init__(self) -> None:
        """Start with nobody waiting."""
        self._waiting: dict[str, asyncio.Event] = {}

    def publish(self, job_id: str) -> None:
        """Wake all who wait for the job now."""
        event = self._waiting.pop(job_id, None)
        if event is not None:
            event.set()

    async def wait(self, job_id: str, timeout: float) -> None:
        """Return on the next publish for the job, or after ``timeout`` seconds."""
        event = self._waiting.setdefault(job_id, asyncio.Event())
        try:
            async with asyncio.timeout(timeout):
                await event.wait()
        except TimeoutError:
            return
