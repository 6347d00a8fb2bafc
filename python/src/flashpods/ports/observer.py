"""The port of whoever watches the jobs' lines, to count and to time what happens on them."""

from __future__ import annotations

from typing import Final, Literal, Protocol

from flashpods.jobs.model import Job

RecoveryAction = Literal[
    "resumed", "restarted", "orphan_removed", "orphan_stayed", "tree_discarded", "deferred"
]
"""What recovery did: a job put back on its line beside its container, or without one; a container
that no row explains removed, or not yet; a workspace deleted; a round that has to be repeated."""


class Observer(Protocol):
    """Hears what has happened; it neither raises nor waits, and a repeated call counts again."""

    def entered(self, job: Job) -> None:
        """Hear that the job's row says so now: its status or its phase is new."""
        ...

    def recovered(self, action: RecoveryAction) -> None:
        """Hear that recovery did something."""
        ...


class Unobserved:
    """An :class:`Observer` that looks away."""

    def entered(self, job: Job) -> None:
        """Do nothing."""

    def recovered(self, action: RecoveryAction) -> None:
        """Do nothing."""


UNOBSERVED: Final[Observer] = Unobserved()
