"""The ports of time, and of waking who waits within this process."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """Time, so that tests own it."""

    def now(self) -> datetime:
        """Return the wall clock, aware UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never step."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait that long."""
        ...


class Changes(Protocol):
    """Wakes those who wait for a job to change, in this process."""

    def publish(self, job_id: str) -> None:
        """Say that the job's row changed."""
        ...

    async def wait(self, job_id: str, timeout: float) -> None:
        """Return on the next change of the job, or when time is up."""
        ...
