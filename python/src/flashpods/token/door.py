"""Who is connected: the kernel's word on each connection's peer, and a bound for each of them.

A peer is a job's container; outside of one, it is a user of the host. No peer can take the places
of another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from flashpods.errors import TooMany, Unavailable
from flashpods.ports.identity import JobContainer, Peer
from flashpods.token.callers import job_container
from flashpods.token.metrics import Metrics

SEAT: Final = "flashpods.seat"  # scope key: the connection's Seat


class Seat:
    """One connection's place."""

    __slots__ = ("_parent", "key", "peer")

    def __init__(self, peer: Peer, parent: str) -> None:
        """Take the peer in; ``key`` is by whom it is counted, for as long as it is connected."""
        self.peer = peer
        self._parent = parent
        found = self.container()
        self.key = f"job_{found.job_id}" if found else f"uid {peer.uid}"

    def container(self) -> JobContainer | None:
        """Return the job's container that the peer is in now; None if it is in none, or dead."""
        return job_container(self.peer.cgroup() or "", self._parent)


class Door:
    """Lets connections in, and counts them."""

    def __init__(
        self,
        *,
        cgroup_parent: str,
        most: int,
        most_per_peer: int,
        metrics: Metrics,
        peer_of: Callable[[Any], Peer],
    ) -> None:
        """Let nobody in yet.

        Args:
            cgroup_parent: ``podman.cgroup_parent``.
            most: connections at once.
            most_per_peer: of one peer.
            metrics: counts them.
            peer_of: from a connected socket to the peer that the kernel knows; may raise OSError.
        """
        self._parent = cgroup_parent
        self._most = most
        self._most_per_peer = most_per_peer
        self._metrics = metrics
        self._peer_of = peer_of
        self._inside: Counter[str] = Counter()

    def enter(self, sock: Any) -> Seat:
        """Let a connection in.

        Raises:
            Unavailable: all places are taken.
            TooMany: the peer has all of its own.
            OSError: the peer has gone already.
        """
        if self._inside.total() >= self._most:
            self._metrics.refused("all")
            raise Unavailable("too many connections; try again in a moment")
        seat = Seat(self._peer_of(sock), self._parent)
        if self._inside[seat.key] >= self._most_per_peer:
            seat.peer.close()
            self._metrics.refused("peer")
            raise TooMany(
                f"{self._most_per_peer} connections are open from here, which is the limit; "
                f"close some",
                headers={"Retry-After": "1"},
            )
        self._inside[seat.key] += 1
        self._metrics.connections.inc()
        return seat

    def leave(self, seat: Seat) -> None:
        """Give the place back."""
        seat.peer.close()
        self._metrics.connections.dec()
        self._inside[seat.key] -= 1
        if not self._inside[seat.key]:
            del self._inside[seat.key]
