"""The laptop's library: one place for HTTP, retries, rsync and downloads.

Names load when they are first used, so that ``flashpods --help`` does not pay for httpx.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flashpods.client.client import FlashpodsClient
    from flashpods.client.config import ClientConfig
    from flashpods.client.errors import (
        ClientError,
        ConfigError,
        DownloadError,
        HostUnreachable,
        UploadError,
    )

__all__ = [
    "ClientConfig",
    "ClientError",
    "ConfigError",
    "DownloadError",
    "FlashpodsClient",
    "HostUnreachable",
    "UploadError",
]

_WHERE = {"FlashpodsClient": "client", "ClientConfig": "config"}


def __getattr__(name: str) -> Any:
    """Load a name of ``__all__`` (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE.get(name, 'errors')}"), name)
