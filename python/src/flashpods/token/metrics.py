"""Prometheus metrics of the token service; every label has a bounded set of values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prometheus_client import Counter, Gauge, Histogram, generate_latest

from flashpods.web.metrics import new_registry

# The codes of an exchange; what is not here is counted as "other".
OUTCOMES: Final = (
    "granted",
    "missing_authorization",
    "invalid_jwt",
    "expired_jwt",
    "invalid_audience",
    "unknown_identity",
    "identity_mismatch",
    "secrets_unavailable",
    "service_unavailable",
    "rate_limited",
    "invalid_request",
    "internal_error",
    "aborted",
    "other",
)
_BUCKETS: Final = (0.001, 0.005, 0.025, 0.1, 1, 5)


class Metrics:
    """A registry of its own, so that each app, also in tests, counts from zero."""

    def __init__(self) -> None:
        """Register everything; every outcome shows from the start, at zero."""
        self.registry = registry = new_registry()
        self._exchanges = Histogram(
            "flashpods_token_exchange_duration_seconds",
            "Exchanges, by outcome: granted, or the error's code.",
            ("outcome",),
            buckets=_BUCKETS,
            registry=registry,
        )
        self._by_outcome = {outcome: self._exchanges.labels(outcome) for outcome in OUTCOMES}
        self.connections = Gauge(
            "flashpods_token_connections", "Open connections.", registry=registry
        )
        self._refused = Counter(
            "flashpods_token_connections_refused",
            "Connections over a bound.",
            ("bound",),
            registry=registry,
        )
        self._reloads = Counter(
            "flashpods_token_secrets_reloads",
            "Reloads of the secrets file.",
            ("result",),
            registry=registry,
        )
        for result in ("ok", "failed"):
            self._reloads.labels(result)
        for bound in ("peer", "all"):
            self._refused.labels(bound)
        self._bundle_age = Gauge(
            "flashpods_token_bundle_age_seconds",
            "For how long the trust bundle has not been kept fresh; NaN: there is none.",
            registry=registry,
        )

        self.authority_ends = Gauge(
            "flashpods_spire_authority_expiry_timestamp_seconds",
            "When the trust domain's newest X.509 authority ends; NaN: it is not known.",
            registry=registry,
        )
        self.authority_ends.set(float("nan"))

    def exchanged(self, outcome: str, seconds: float) -> None:
        """Count one exchange."""
        known = outcome if outcome in self._by_outcome else "other"
        self._by_outcome[known].observe(seconds)

    def refused(self, bound: str) -> None:
        """Count a connection over a bound: ``peer`` or ``all``."""
        self._refused.labels(bound).inc()

    def reloaded(self, *, ok: bool) -> None:
        """Count a reload."""
        self._reloads.labels("ok" if ok else "failed").inc()

    def render(self, bundle_age: Callable[[], float]) -> bytes:
        """Return the text of a scrape."""
        self._bundle_age.set(bundle_age())
        return generate_latest(self.registry)
