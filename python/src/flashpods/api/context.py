"""What the handlers share, for the life of one app."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from flashpods.errors import Unavailable
from flashpods.services import Services
from flashpods.telemetry.metrics import Metrics

WAITED: Final = "flashpods.waited"  # scope key: the time of the answer was the caller's choice


class Held:
    """The requests that are held open (event streams, waits): counted, bounded, ended together."""

    def __init__(self, most: int, metrics: Metrics) -> None:
        """Allow ``most`` at once."""
        self._most = most
        self._metrics = metrics
        self._open: set[asyncio.Timeout] = set()
        self.closing = False

    def __len__(self) -> int:
        """Return how many are open."""
        return len(self._open)

    @contextlib.contextmanager
    def slot(self, until: asyncio.Timeout) -> Iterator[None]:
        """Hold a slot; ``until`` is brought forward when the process stops.

        Raises:
            Unavailable: ``service_unavailable``, all slots are taken or the process stops.
        """
        if self.closing:
            raise Unavailable("the service is restarting; ask again in a moment")
        if len(self._open) >= self._most:
            raise Unavailable(
                f"{self._most} event streams and waits are open, which is the limit; "
                f"close some or ask again later"
            )
        self._open.add(until)
        self._metrics.streams.set(len(self._open))
        try:
            yield
        finally:
            self._open.discard(until)
            self._metrics.streams.set(len(self._open))

    def close(self) -> None:
        """End them all; clients resume at the next process."""
        self.closing = True
        now = asyncio.get_running_loop().time()
        for until in self._open:
            if not until.expired():
                until.reschedule(now)


@dataclass(frozen=True, slots=True)
class Context:
    """The services, and what the API adds to them."""

    services: Services
    held: Held = field(init=False)

    def __post_init__(self) -> None:
        """Size the slots from the settings."""
        most = self.services.settings.http.follow_limit
        object.__setattr__(self, "held", Held(most, self.metrics))

    @property
    def metrics(self) -> Metrics:
        """What the API itself counts."""
        return self.services.telemetry.metrics
