"""The ports of identity: who vouches for a token, who is calling, whether jobs can have one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class JobContainer:
    """The container of a job, as a process's cgroup names it."""

    job_id: str
    name: str  # job_<job_id>
    id: str  # the engine's


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A JWT-SVID that holds."""

    spiffe_id: str


class SvidVerifier(Protocol):
    """Validates JWT-SVIDs with the trust domain's bundle; asks nobody while it does."""

    def verify(self, token: str) -> Verified:
        """Validate signature, trust domain, expiry (without leeway) and audience.

        Raises:
            Unauthorized: ``invalid_jwt``, ``expired_jwt``, ``invalid_audience``.
            Unavailable: there is no trust bundle, or it is too old.
        """
        ...

    def age(self) -> float:
        """Return for how many seconds the bundle has not been kept fresh; 0 while it is.

        Raises:
            Unavailable: there is no trust bundle, or it is too old.
        """
        ...


class Peer(Protocol):
    """The process that opened a connection, held so that its pid can't be taken for another's."""

    pid: int
    uid: int

    def cgroup(self) -> str | None:
        """Return its cgroup v2 path as it is now; None if it has died or is not to be seen."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class ContainerTypes(Protocol):
    """What the engine knows of a job's container."""

    async def job_type(self, container: JobContainer) -> str | None:
        """Return the type that the container's labels say; None if it is not that job's container.

        Raises:
            Unavailable: the engine does not answer, or not in time.
        """
        ...

    async def ping(self) -> None:
        """Return when the engine answers.

        Raises:
            Unavailable: it does not, or not in time.
        """
        ...


class IdentityChain(Protocol):
    """All that a job needs to get its identity and its secrets."""

    async def ping_agent(self) -> None:
        """Return when SPIRE's agent answers.

        Raises:
            Unavailable: it does not, or not in time.
        """
        ...

    async def ping_tokens(self) -> None:
        """Return when the token service says that it is well.

        Raises:
            Unavailable: it does not, or not in time.
        """
        ...

    async def ping(self) -> None:
        """Return when a job could get both.

        Raises:
            Unavailable: names the part that does not answer.
        """
        ...
