"""Wakes requests that wait for a job, within this process."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Waiting:
    """Those who wait for one job."""

    event: asyncio.Event = field(default_factory=asyncio.Event)
    count: int = 0


class InProcessChanges:
    """One event per job that somebody waits for; nobody waiting costs nothing."""

    def __init__(self) -> None:
        """Start with nobody waiting."""
        self._waiting: dict[str, _Waiting] = {}

    def __len__(self) -> int:
        """Return how many jobs are waited for."""
        return len(self._waiting)

    def publish(self, job_id: str) -> None:
        """Wake all who wait for the job now."""
        waiting = self._waiting.pop(job_id, None)
        if waiting is not None:
            waiting.event.set()

    async def wait(self, job_id: str, timeout: float) -> None:
        """Return on the next publish for the job, or after ``timeout`` seconds."""
        waiting = self._waiting.setdefault(job_id, _Waiting())
        waiting.count += 1
        try:
            async with asyncio.timeout(timeout):
                await waiting.event.wait()
        except TimeoutError:
            return
        finally:
            waiting.count -= 1
            if not waiting.count and self._waiting.get(job_id) is waiting:
                del self._waiting[job_id]  # the last publish may have been
