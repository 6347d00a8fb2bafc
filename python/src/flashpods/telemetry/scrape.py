"""A scrape: what is in memory, the sampler's last look, and one small query."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final

import structlog
from prometheus_client import Metric, generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from flashpods.errors import FlashpodsError
from flashpods.jobs.model import Capacity, Tally
from flashpods.ports import JobStore
from flashpods.telemetry.families import of_sample, of_tally
from flashpods.telemetry.metrics import Metrics
from flashpods.telemetry.sampler import Sampler

TALLY_SECONDS: Final = 2.0

log = structlog.get_logger(__name__)


class Telemetry:
    """Everything that a scrape of the API's process needs."""

    def __init__(
        self, metrics: Metrics, sampler: Sampler, store: JobStore, capacity: Capacity
    ) -> None:
        """Take the parts."""
        self.metrics = metrics
        self.sampler = sampler
        self._store = store
        self._capacity = capacity
        self._tally: Tally | None = None

    async def render(self) -> bytes:
        """Return the text of a scrape; the event loop only waits for it.

        A database that does not answer leaves its totals as they were last seen, so that the rest
        is to be seen all the same.
        """
        try:
            async with asyncio.timeout(TALLY_SECONDS):
                self._tally = await self._store.tally()
        except (FlashpodsError, TimeoutError) as e:
            log.warning("tally_is_old", reason=str(e) or type(e).__name__)
        return await asyncio.to_thread(self._text)

    def _text(self) -> bytes:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Once(self))
        return generate_latest(self.metrics.registry) + generate_latest(registry)

    def families(self) -> Iterator[Metric]:
        """Yield what does not come from this process's own instruments."""
        if self._tally is not None:
            yield from of_tally(self._tally, self._capacity)
        yield from of_sample(self.sampler.last)


class _Once(Collector):
    """The families as a collector."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    def collect(self) -> Iterator[Metric]:
        yield from self._telemetry.families()
