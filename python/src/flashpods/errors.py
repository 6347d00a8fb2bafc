"""Every error Flashpods answers with, in one tree.

    FlashpodsError
    ├── BadRequest (400)        the caller must change the request
    ├── Unauthorized (401)
    ├── Forbidden (403)         known, but not allowed
    ├── NotFound (404)
    ├── Conflict (409)          the state of the thing forbids it
    ├── Gone (410)              it was there and has been deleted
    ├── TooLarge (413)
    ├── TooMany (429)           wait, then ask again
    ├── Unavailable (503)       wait, then ask again
    ├── InsufficientStorage (507)
    └── StaleState              internal: the row moved on; never leaves the process

Each carries its code (the ``error`` field of the answer) and its HTTP status.
:mod:`flashpods.web.problems` is the one place that turns them into responses. Codes are the
contract's (sections 5 and 6).
"""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = [
    "BadRequest",
    "Conflict",
    "FlashpodsError",
    "Forbidden",
    "Gone",
    "InsufficientResources",
    "InsufficientStorage",
    "InternalError",
    "MethodNotAllowed",
    "NotFound",
    "StaleState",
    "TooLarge",
    "TooMany",
    "Unauthorized",
    "Unavailable",
    "cut",
]

SHOWN_VALUE_CHARS = 80


def cut(value: object) -> str:
    """Show a refused value: its ``repr``, cut to :data:`SHOWN_VALUE_CHARS` characters."""
    text = repr(value[: SHOWN_VALUE_CHARS * 2] if isinstance(value, str | bytes) else value)
    return text if len(text) <= SHOWN_VALUE_CHARS else f"{text[:SHOWN_VALUE_CHARS]}…"


class FlashpodsError(Exception):
    """An error with a code, an HTTP status and a message that names the remedy."""

    status: ClassVar[int] = 500
    default_code: ClassVar[str] = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        details: dict[str, Any] | None = None,
        extra: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Build the error.

        Args:
            message: one sentence for a person: the field, the value (see :func:`cut`), the remedy.
            code: the machine-readable ``error``; the class's ``default_code`` when None.
            details: the ``details`` object of the answer.
            extra: fields at the top level of the answer, beside error, message and details.
            headers: HTTP headers of the answer.
        """
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.details = details or {}
        self.extra = extra or {}
        self.headers = headers or {}


class InternalError(FlashpodsError):
    """Something failed that the caller did not cause."""


class BadRequest(FlashpodsError):
    """The request itself is wrong."""

    status = 400
    default_code = "invalid_request"


class Unauthorized(FlashpodsError):
    """No token, a malformed header, or the wrong token."""

    status = 401
    default_code = "invalid_token"


class Forbidden(FlashpodsError):
    """The caller is who it says, and may not have this; or it is not who its identity says."""

    status = 403
    default_code = "forbidden"


class NotFound(FlashpodsError):
    """There is no such thing."""

    status = 404
    default_code = "not_found"


class MethodNotAllowed(FlashpodsError):
    """The path exists, but not with this method."""

    status = 405
    default_code = "method_not_allowed"


class Conflict(FlashpodsError):
    """The state of the thing forbids the request."""

    status = 409
    default_code = "conflict"


class Gone(FlashpodsError):
    """It existed and was deleted by its retention."""

    status = 410
    default_code = "gone"


class TooLarge(FlashpodsError):
    """The request's body is over the limit."""

    status = 413
    default_code = "request_too_large"


class TooMany(FlashpodsError):
    """The client asks too often."""

    status = 429
    default_code = "rate_limited"


class InsufficientResources(TooMany):
    """The host's free CPUs or memory do not hold the job now."""

    default_code = "insufficient_resources"


class Unavailable(FlashpodsError):
    """A part of the host is not ready; it may be soon."""

    status = 503
    default_code = "service_unavailable"


class InsufficientStorage(FlashpodsError):
    """A disk or a quota is full; a retry of the same request does not help."""

    status = 507
    default_code = "insufficient_storage"


class StaleState(FlashpodsError):
    """A row was not in the expected state: somebody else moved it first."""

    status = 409
    default_code = "stale_state"
