"""A token bucket per client address: ``rate`` requests a second, ``burst`` at once."""

from __future__ import annotations

import math
from collections import OrderedDict

from flashpods.web.reply import Header


class RateLimiter:
    """The buckets of the clients seen last.

    The table is bounded: the client unseen for longest is forgotten first, and forgetting only
    gives it a full bucket again.
    """

    def __init__(self, *, rate: float, burst: int, clients: int) -> None:
        """Build it empty."""
        self._rate = rate
        self._burst = burst
        self._clients = clients
        self._buckets: OrderedDict[str, list[float]] = OrderedDict()  # address → [tokens, at]
        self._limit: Header = (b"x-ratelimit-limit", b"%d" % max(1, math.floor(rate)))
        self._left = [(b"x-ratelimit-remaining", b"%d" % n) for n in range(min(burst, 1000) + 1)]

    def __len__(self) -> int:
        """Return how many clients are remembered."""
        return len(self._buckets)

    def take(self, client: str, now: float) -> tuple[int, list[Header]]:
        """Take one token at ``now`` (monotonic seconds).

        Returns:
            Seconds to wait (0: go on), and the headers for the answer: ``X-RateLimit-Limit``
            (requests a second), ``-Remaining`` (requests that may be sent at once now) and
            ``-Reset`` (seconds until the whole burst is there again).
        """
        bucket = self._buckets.get(client)
        if bucket is None:
            bucket = self._buckets[client] = [float(self._burst), now]
            if len(self._buckets) > self._clients:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(client)
        tokens = min(self._burst, bucket[0] + (now - bucket[1]) * self._rate)
        wait = 0
        if tokens >= 1:
            tokens -= 1
        else:
            wait = math.ceil((1 - tokens) / self._rate)
        bucket[0], bucket[1] = tokens, now
        left = int(tokens)
        remaining = (
            self._left[left] if left < len(self._left) else (b"x-ratelimit-remaining", b"%d" % left)
        )
        reset = math.ceil((self._burst - tokens) / self._rate)
        return wait, [self._limit, remaining, (b"x-ratelimit-reset", b"%d" % reset)]
