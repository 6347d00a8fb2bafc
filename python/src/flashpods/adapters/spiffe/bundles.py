"""The trust domain's JWT bundle, kept fresh from the Workload API's stream.

py-spiffe's own ``JwtSource`` is not used: it throws its bundles away, for good, when the stream
ends with a status that it does not retry (an agent that stops may say CANCELLED), and its gRPC
channel waits up to two minutes before it looks for an agent that was away for long. Here each try
has a channel of its own, and what was known stays known, for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Final, TypeVar

import structlog
from spiffe import JwtBundle, JwtBundleSet, TrustDomain, WorkloadApiClient
from spiffe.errors import PySpiffeError
from spiffe.workloadapi.workload_api_client import StreamCancelHandler

from flashpods.errors import Unavailable

FIRST_BACKOFF, MOST_BACKOFF = 0.1, 2.0
"""Seconds between tries while the agent is away."""
FIRST_UPDATE_SECONDS: Final = 10.0
"""An agent that accepts a stream sends its bundles at once."""
BEGIN_SECONDS, BEGIN_LOOK = 5.0, 0.005
"""How long a stream may take to begin, which waits for nobody."""
STEADY_SECONDS: Final = 10.0
"""A stream that lasted that long was a good one."""

T = TypeVar("T")

log = structlog.get_logger(__name__)


class BundleKeeper:
    """Follows the agent, in the background, and has the bundle at hand.

    An agent that is away changes nothing for ``grace_seconds``; then nothing is trusted any more,
    because a key that the trust domain has revoked meanwhile would be.
    """

    def __init__(
        self,
        workload_api: str,
        trust_domain: str,
        *,
        grace_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Do nothing yet; ``workload_api`` is ``unix:///…``."""
        self._workload_api = workload_api
        self._trust_domain = TrustDomain(trust_domain)
        self._grace = grace_seconds
        self._monotonic = monotonic
        self._bundle: JwtBundle | None = None
        self._lost_at: float | None = None  # None while a stream is open
        self._first = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to follow."""
        self._task = asyncio.create_task(self._follow(), name="trust bundles")

    async def wait(self, seconds: float) -> None:
        """Return once there is a bundle.

        Raises:
            Unavailable: there is none within the time.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._first.wait()
        except TimeoutError:
            raise Unavailable(
                f"no trust bundle of {self._trust_domain} from {self._workload_api} within "
                f"{seconds:g} s; is the SPIRE agent up, and does it know this workload?"
            ) from None

    async def close(self) -> None:
        """Stop following."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def age(self) -> float:
        """Return for how many seconds the bundle has not been kept fresh; see the port."""
        if self._bundle is None:
            raise Unavailable(f"there is no trust bundle of {self._trust_domain}; ask again soon")
        lost_at = self._lost_at
        age = 0.0 if lost_at is None else self._monotonic() - lost_at
        if age > self._grace:
            raise Unavailable(
                f"the SPIRE agent has been away for {age:.0f} s, and its trust bundle is not "
                f"trusted for longer than {self._grace:g} s"
            )
        return age

    def bundle(self) -> JwtBundle:
        """Return the bundle.

        Raises:
            Unavailable: there is none, or it is too old.
        """
        self.age()
        assert self._bundle is not None
        return self._bundle

    async def _follow(self) -> None:
        backoff = FIRST_BACKOFF
        while True:
            began = self._monotonic()
            heard = await self._stream()
            # One that breaks off each time is no reason to hurry.
            lasted = heard and self._monotonic() - began > STEADY_SECONDS
            backoff = FIRST_BACKOFF if lasted else min(backoff * 2, MOST_BACKOFF)
            await asyncio.sleep(backoff)

    async def _stream(self) -> bool:
        """Follow one stream to its end; return whether it brought anything."""
        loop = asyncio.get_running_loop()
        stream = _Stream(self._take)
        try:
            client = WorkloadApiClient(self._workload_api)
        except PySpiffeError as e:
            self._lost(str(e))
            return False
        # Both callbacks come from a thread of py-spiffe's.
        handler = client.stream_jwt_bundles(
            lambda bundles: _tell(loop, stream.update, bundles),
            lambda why: _tell(loop, stream.end, why),
            retry_connect=False,
        )
        try:
            self._lost(await stream.followed())
        finally:
            stream.over = True
            await _close(client, handler, stream)
        return stream.updated

    def _take(self, bundles: JwtBundleSet) -> None:
        """Take an update: the agent's word counts, also where it takes a bundle away."""
        bundle = bundles.get_bundle_for_trust_domain(self._trust_domain)
        if bundle is not None and not bundle.jwt_authorities:
            bundle = None
        if bundle is None:
            log.error("the agent has no trust bundle", trust_domain=str(self._trust_domain))
        elif bundle != self._bundle:
            keys = sorted(bundle.jwt_authorities)
            log.info("trust bundle", trust_domain=str(self._trust_domain), keys=keys)
        self._bundle = bundle
        self._lost_at = None
        if bundle is not None:
            self._first.set()

    def _lost(self, why: str) -> None:
        """Note that no stream is open; said once, not at each try."""
        if self._lost_at is None:
            self._lost_at = self._monotonic()
            log.warning("the SPIRE agent is away", workload_api=self._workload_api, why=why)


class _Stream:
    """One stream of bundles, as the event loop sees it."""

    def __init__(self, take: Callable[[JwtBundleSet], None]) -> None:
        """Hand each update to ``take``."""
        self._take = take
        self._changed = asyncio.Event()
        self.why: str | None = None
        self.updated = False
        self.over = False  # given up: what still comes from it is of no interest

    def update(self, bundles: JwtBundleSet) -> None:
        """Take bundles that have come."""
        if not self.over:
            self.updated = True
            self._changed.set()
            self._take(bundles)

    def end(self, why: Exception) -> None:
        """Note its end."""
        self.why = " ".join(str(why).split())[:200]
        self._changed.set()

    async def followed(self) -> str:
        """Return why it ended; a stream that stays silent at first has ended too."""
        try:
            async with asyncio.timeout(FIRST_UPDATE_SECONDS):
                await self._changed.wait()
        except TimeoutError:
            return f"no bundles within {FIRST_UPDATE_SECONDS:g} s"
        while self.why is None:
            self._changed.clear()
            await self._changed.wait()
        return self.why


async def _close(client: WorkloadApiClient, handler: StreamCancelHandler, stream: _Stream) -> None:
    """Close the channel, but not while py-spiffe's thread begins its call on it.

    gRPC crashes the process then: it registers the call's method without a look whether the
    channel is still open. The call has begun once the handler has its iterator.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + BEGIN_SECONDS
    while handler.response_iterator is None and stream.why is None:
        if loop.time() > until:
            log.error("a stream of the Workload API did not begin; its channel is left open")
            handler.cancel()
            return
        await asyncio.sleep(BEGIN_LOOK)
    handler.cancel()
    await asyncio.to_thread(client.close)  # it waits for the call's end


def _tell(loop: asyncio.AbstractEventLoop, act: Callable[[T], None], what: T) -> None:
    """Call back in the event loop; when that is closed nobody is interested any more."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(act, what)
