"""When a request is sent again (contract, section 9), as one table and one counter.

| failure                                | retries |
|----------------------------------------|---------|
| 429, 503                               | 5       |
| no answer (connect, cut, timeout)      | 3       |
| other 5xx                              | 2       |
| 507, other 4xx, anything else          | never   |

Delays double from ``base_delay`` to ``max_delay`` with jitter; ``Retry-After`` is a lower bound.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Final

__all__ = [
    "LIMITS",
    "Failure",
    "Retries",
    "RetryPolicy",
    "classify",
    "parse_http_date",
    "parse_retry_after",
]

MAX_RETRY_AFTER: Final = 300.0  # seconds; a host that asks for more is not waited for


class Failure(Enum):
    """The kinds of failure that the table tells apart."""

    BUSY = "busy"
    NETWORK = "network"
    SERVER = "server"
    FINAL = "final"


LIMITS: Final[dict[Failure, int]] = {
    Failure.BUSY: 5,
    Failure.NETWORK: 3,
    Failure.SERVER: 2,
    Failure.FINAL: 0,
}


def classify(status: int | None) -> Failure:
    """Return the kind of failure of an HTTP status; None means that no answer came."""
    if status is None:
        return Failure.NETWORK
    if status in {429, 503}:
        return Failure.BUSY
    if 500 <= status <= 599 and status != 507:
        return Failure.SERVER
    return Failure.FINAL


def parse_retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Return the seconds of a ``Retry-After`` header (RFC 9110, 10.2.3); None if there is none.

    Args:
        value: the header.
        now: the host's time, from its ``Date``; this machine's clock may be wrong.
    """
    if value is None:
        return None
    if value.strip().isascii() and value.strip().isdigit():
        return float(value)
    when = parse_http_date(value)
    if when is None:
        return None
    return max(0.0, (when - (now or datetime.now(UTC))).total_seconds())


def parse_http_date(value: str | None) -> datetime | None:
    """Return the time of a header such as ``Date`` (RFC 9110, 5.6.7); None if it is none."""
    try:
        when = parsedate_to_datetime(value or "")
    except ValueError:
        return None
    return when if when.tzinfo is not None else when.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how fast. Delays in seconds.

    ``max_attempts`` bounds the retries of every kind, so 0 switches them off.
    """

    max_attempts: int = 5
    base_delay: float = 1.0
    max_delay: float = 30.0

    def limit(self, failure: Failure) -> int:
        """Return how many retries a kind of failure gets."""
        if failure is Failure.BUSY:
            return self.max_attempts
        return min(LIMITS[failure], self.max_attempts)


class Retries:
    """Counts the failures of one call; each kind has its own budget."""

    def __init__(
        self,
        policy: RetryPolicy,
        *,
        jitter: Callable[[], float] = random.random,
        network_limit: int | None = None,
    ) -> None:
        """Start counting.

        Args:
            policy: the numbers.
            jitter: returns [0, 1).
            network_limit: more patience for a stream that was already open.
        """
        self._policy = policy
        self._jitter = jitter
        self._network_limit = network_limit
        self._seen: Counter[Failure] = Counter()

    def next_delay(self, failure: Failure, retry_after: float | None = None) -> float | None:
        """Count a failure; return the seconds to wait before the next try, or None to give up."""
        limit = self._policy.limit(failure)
        if failure is Failure.NETWORK and self._network_limit is not None:
            limit = self._network_limit
        done = self._seen[failure]
        if done >= limit or (retry_after is not None and retry_after > MAX_RETRY_AFTER):
            return None
        self._seen[failure] += 1
        full = min(self._policy.max_delay, self._policy.base_delay * 2.0 ** min(done, 30))
        delay = full * (0.5 + 0.5 * self._jitter())
        if retry_after is not None and retry_after > delay:
            # Everybody was told the same second: spread the arrivals after it.
            delay = retry_after + self._policy.base_delay * self._jitter()
        return delay
