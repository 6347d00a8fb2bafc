"""What a refusal of the engine means: come again, or never."""

from __future__ import annotations

from typing import Final

from flashpods.adapters.podman.rest import Answer
from flashpods.errors import Unavailable
from flashpods.ports import ContainerError

# Podman answers 500 to causes that pass as well; these say that it was busy, not that it refused.
_PASSING: Final = (
    "database is locked",
    "resource temporarily unavailable",
    "too many open files",
    "context deadline exceeded",
    "context canceled",
    "connection refused",
    "shutting down",
    "image not known",  # it was trimmed since it was looked for: have it again
    "no such image",
    "create keyring",  # a user has 200 keys unless kernel.keys.maxkeys says more, keyrings(7)
)


def refusal(answer: Answer, what: str) -> Unavailable | ContainerError:
    """Return the error to raise: Unavailable for a cause that passes, ContainerError otherwise."""
    message = f"{what}: {answer.message}"
    if any(mark in message.lower() for mark in _PASSING):
        return Unavailable(message)
    return ContainerError(message)
