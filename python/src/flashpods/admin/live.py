"""The API that runs on this host, as its administrator asks it: over HTTP, with its own token."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import httpx

from flashpods.config import Settings, read_tokens
from flashpods.config_base import ConfigError

__all__ = ["Health", "LiveApi"]

SECONDS: Final = 5.0
LOOK_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """An answer of ``/health``."""

    healthy: bool
    version: str
    checks: dict[str, dict[str, Any]]

    @property
    def database(self) -> bool:
        """Whether it can use its database."""
        return self.checks.get("database", {}).get("status") == "ok"


class LiveApi:
    """A client of the host's own API; nothing is asked before a method is called."""

    def __init__(self, settings: Settings) -> None:
        """Keep where it listens, and where its token is."""
        http = settings.http
        host = f"[{http.host}]" if http.host.version == 6 else str(http.host)
        self.url = f"http://{host}:{http.port}"
        self._token_file = http.token_file
        self._token: bytes | None = None

    def _client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=SECONDS, trust_env=False)

    def health(self) -> Health | None:
        """Return what the API says of itself; None if nobody answers."""
        try:
            with self._client() as client:
                answer = client.get("/health")
                body = answer.json()
                return Health(
                    healthy=answer.status_code == 200,
                    version=str(body["version"]),
                    checks=dict(body["checks"]),
                )
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return None

    def wait_for_database(self, seconds: float) -> Health | None:
        """Return its health once it uses its database; None if it does not within that time."""
        end = time.monotonic() + seconds
        while True:
            health = self.health()
            if health is not None and health.database:
                return health
            if time.monotonic() > end:
                return None
            time.sleep(LOOK_SECONDS)

    def accepts(self, token: bytes) -> bool | None:
        """Return whether the token is good; None if nobody answers."""
        try:
            with self._client() as client:
                answer = client.get("/capacity", headers=_bearer(token))
        except httpx.HTTPError:
            return None
        return answer.status_code != 401

    def unlock(self) -> None:
        """Read the token, while we may; where we may not, :meth:`cancel` says that it can't."""
        with suppress(ConfigError):
            self._token = read_tokens(self._token_file)[0]

    def cancel(self, job_id: str) -> bool:
        """Ask for a job's end; return whether the API took it: False if it can't be asked.

        A job that has ended meanwhile counts as taken.
        """
        if self._token is None:
            return False
        try:
            with self._client() as client:
                answer = client.delete(f"/jobs/{job_id}", headers=_bearer(self._token))
        except httpx.HTTPError:
            return False
        return answer.status_code in {200, 404, 409}


def _bearer(token: bytes) -> dict[str, str]:
    return {"Authorization": f"Bearer {token.decode('ascii')}"}
