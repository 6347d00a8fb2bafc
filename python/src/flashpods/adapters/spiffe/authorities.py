"""When the trust domain's newest X.509 authority ends, asked of the Workload API now and then.

The server makes the next authority when half of the life of this one is over, and every SVID ends
before its authority: one that ends soon means that the server has not rotated, or that the agent
has lost it. It is for an operator's eye alone, in a metric and in what the doctor says; nothing is
decided by it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog
from spiffe import TrustDomain, WorkloadApiClient
from spiffe.errors import PySpiffeError

LOOK_SECONDS: Final = 60.0
CALL_SECONDS: Final = 3.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Authority:
    """The life of an authority, in Unix time."""

    begins: float
    ends: float

    def left(self, now: float) -> float:
        """Return the part of its life that is left: 1 at its beginning, negative after its end."""
        return (self.ends - now) / (self.ends - self.begins)


def newest(workload_api: str, trust_domain: str, *, seconds: float = CALL_SECONDS) -> Authority:
    """Return the authority that ends last; blocks.

    Raises:
        LookupError: the agent does not answer in time, or knows no authority of the domain.
    """
    try:
        # A client of its own, closed by this thread: see CONTRIBUTING on gRPC.
        client = WorkloadApiClient(workload_api)
        try:
            bundles = client.fetch_x509_bundles(timeout=seconds)
        finally:
            client.close()
    except PySpiffeError as e:
        raise LookupError(" ".join(str(e).split())[:200]) from e
    bundle = bundles.get_bundle_for_trust_domain(TrustDomain(trust_domain))
    if bundle is None or not bundle.x509_authorities:
        raise LookupError(f"no authority of {trust_domain}")
    last = max(bundle.x509_authorities, key=lambda a: a.not_valid_after_utc)
    return Authority(last.not_valid_before_utc.timestamp(), last.not_valid_after_utc.timestamp())


async def watch(workload_api: str, trust_domain: str, told: Callable[[float], None]) -> None:
    """Tell the end of the newest authority every :data:`LOOK_SECONDS`, until cancelled.

    NaN where it can't be had, which is said once.
    """
    known = True
    while True:
        try:
            told((await asyncio.to_thread(newest, workload_api, trust_domain)).ends)
            known = True
        except LookupError as e:
            told(float("nan"))
            if known:
                log.warning("the trust domain's authorities are not to be had", why=str(e))
            known = False
        await asyncio.sleep(LOOK_SECONDS)
