"""What can go wrong between the laptop and the host, in one tree.

    ClientError                 the host refused, or an answer was not understood
    ├── HostUnreachable         no answer: tunnel down, host off, connection cut
    ├── ConfigError             the laptop's configuration can't be used
    ├── UploadError             rsync failed (upload_failed, upload_disk_full, rsync_missing, …)
    └── DownloadError           an artifact could not be kept whole or safely

Each has a machine-readable ``code``: the host's own where the host answered (contract,
section 5), one of those above otherwise.
"""

from __future__ import annotations

from typing import Any

__all__ = ["ClientError", "ConfigError", "DownloadError", "HostUnreachable", "UploadError"]


class ClientError(Exception):
    """An error with a code and a message that a person or an agent can act on."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        status: int | None = None,
        details: dict[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> None:
        """Build the error.

        Args:
            code: the machine-readable ``error``.
            message: one line that says what happened and what to do.
            status: the HTTP status, if the host answered.
            details: the host's ``details`` and whatever else stood at its answer's top level.
            retry_after: seconds the host asked to wait.
        """
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status
        self.details = details or {}
        self.retry_after = retry_after

    def __str__(self) -> str:
        """Return ``message (code)``."""
        return f"{self.message} ({self.code})"

    def as_dict(self) -> dict[str, Any]:
        """Return ``{"error", "message"}``, and ``details`` where there are some."""
        answer: dict[str, Any] = {"error": self.code, "message": self.message}
        if self.details:
            answer["details"] = self.details
        return answer


class HostUnreachable(ClientError):
    """No usable answer came from the host."""

    def __init__(self, message: str) -> None:
        super().__init__("host_unreachable", message)


class ConfigError(ClientError):
    """The configuration file or the environment can't be used."""

    def __init__(self, message: str, *, code: str = "invalid_config") -> None:
        super().__init__(code, message)


class UploadError(ClientError):
    """The tree did not reach the host."""


class DownloadError(ClientError):
    """The artifact did not reach the laptop, or may not be written where it was to go."""
