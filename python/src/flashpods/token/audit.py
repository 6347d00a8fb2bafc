"""The audit: one structured line for each exchange, never a secret or a token."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import structlog

from flashpods.errors import FlashpodsError
from flashpods.token.door import Seat
from flashpods.token.exchange import Attempt
from flashpods.token.metrics import Metrics

QUIET_SECONDS: Final = 10.0
MOST_PEERS: Final = 1024

log = structlog.get_logger(__name__)


class Audit:
    """Writes what happened, to the journal and the metrics."""

    def __init__(self, metrics: Metrics, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Count in ``metrics``."""
        self._metrics = metrics
        self._monotonic = monotonic
        self._quiet: OrderedDict[str, tuple[float, int]] = OrderedDict()  # peer → (said at, since)

    def exchange(
        self,
        attempt: Attempt,
        seat: Seat,
        *,
        outcome: str,
        error: FlashpodsError | None,
        request_id: str,
        seconds: float,
    ) -> None:
        """Write one exchange.

        The SPIFFE ID is that of a verified token; what an unverified one claims is not repeated.
        The job is that of the caller's cgroup, whether or not its identity was right. Of what
        failed only the kind is named: a library's message may quote the token.
        """
        self._metrics.exchanged(outcome, seconds)
        container = attempt.container
        fields: dict[str, object] = {
            "outcome": outcome,
            "spiffe_id": attempt.spiffe_id,
            "job_id": container.job_id if container else None,
            "container": container.id[:12] if container else None,
            "job_type": attempt.job_type,
            "pid": seat.peer.pid,
            "uid": seat.peer.uid,
            "request_id": request_id,
            "ms": round(1000 * seconds, 3),
        }
        if error is not None:
            fields["status"] = error.status
            if error.__cause__ is not None:
                fields["why"] = type(error.__cause__).__name__
            if error.status >= 500:
                fields["message"] = error.message
        log.info("token exchange", **fields)

    def too_often(self, seat: Seat) -> None:
        """Count a request over the rate; a line now and then, lest it drown the others'."""
        self._metrics.exchanged("rate_limited", 0.0)
        now = self._monotonic()
        said_at, count = self._quiet.get(seat.key, (float("-inf"), 0))
        if now - said_at >= QUIET_SECONDS:
            log.warning(
                "token exchanges refused",
                outcome="rate_limited",
                peer=seat.key,
                pid=seat.peer.pid,
                uid=seat.peer.uid,
                not_logged=count,
            )
            said_at, count = now, -1
        self._quiet[seat.key] = (said_at, count + 1)
        self._quiet.move_to_end(seat.key)
        if len(self._quiet) > MOST_PEERS:
            self._quiet.popitem(last=False)
