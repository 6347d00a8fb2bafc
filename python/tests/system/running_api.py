"""The API of a test's own, and the run's one stack, as the system tests drive them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from flashpods.config import Settings
from flashpods_dev.service import PATIENCE, Service
from flashpods_dev.stack import Info, MiniStack


class RunningApi:
    """An API of a test's own, with its engine and rsync daemon; all attributes are read-only."""

    def __init__(self, stack: MiniStack) -> None:
        self.stack = stack
        self.token = stack.layout.token.read_text().strip()
        self.client = self.new_client()

    def new_client(self, **options: Any) -> httpx.AsyncClient:
        """Return a client that carries the token; the caller closes it."""
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx.AsyncClient(
            base_url=self.stack.api_url, headers=headers, trust_env=False, timeout=60, **options
        )

    @property
    def url(self) -> str:
        return self.stack.api_url

    @property
    def rsync_url(self) -> str:
        """``rsync://127.0.0.1:PORT/uploads``."""
        return self.stack.info.rsync_url

    @property
    def settings(self) -> Settings:
        return Settings(**self.stack.settings)

    @property
    def settings_path(self) -> Path:
        return self.stack.layout.settings

    @property
    def db(self) -> Path:
        return self.stack.layout.database

    @property
    def service(self) -> Service:
        """The API's process: pid, alive, start, kill, terminate, restart, log."""
        return self.stack.api

    @property
    def podman(self) -> Service:
        """The engine's process; ``stack.run_podman(...)`` runs its command line."""
        return self.stack.podman

    @property
    def pid(self) -> int:
        return self.stack.api.pid

    @property
    def log(self) -> str:
        """What the API has logged so far."""
        return self.stack.api.log.read_text()

    def kill(self) -> None:
        """SIGKILL the API; its containers and Podman go on."""
        self.stack.api.kill()

    def terminate(self, seconds: float = PATIENCE) -> int:
        """SIGTERM the API and return its exit code."""
        return self.stack.api.terminate(seconds)

    def start(self) -> None:
        """Start it again, on the same state, port and settings."""
        self.stack.api.start()

    def restart(self, overrides: Mapping[str, Any] | None = None) -> None:
        """Terminate and start it, with further settings if given."""
        self.stack.api.terminate()
        self.stack.write_settings(overrides or {})
        self.stack.api.start()


ApiFactory = Callable[..., RunningApi]


@dataclass(frozen=True)
class SharedStack:
    """The run's one stack, as a client sees it. Don't stop or reconfigure it."""

    info: Info
    token: str
    settings: Settings
    settings_path: Path

    def new_client(self) -> httpx.AsyncClient:
        """Return a client that carries the token; the caller closes it."""
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx.AsyncClient(
            base_url=self.info.api_url, headers=headers, trust_env=False, timeout=60
        )
