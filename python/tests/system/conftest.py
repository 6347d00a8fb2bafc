"""The running stack, and further ones of a test's own.

``./dev test`` starts one stack for the whole run and says where it is in the environment. A test
that kills the API or Podman, or wants other settings, makes its own with ``api``: it has its own
engine, store, database and ports, because recovery removes the containers that its database does
not know. Nothing here skips: without the stack these tests fail and say what to run.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import support
from support import Connected

from flashpods.config import Settings
from flashpods_dev.machine import Machine, inside
from flashpods_dev.service import Service
from flashpods_dev.stack import Info, MiniStack

# What a test's own API has beyond a host's defaults: no rate limit in the way of bursts.
NO_RATE_LIMIT = {"http": {"rate_per_second": 1e6, "rate_burst": 1_000_000}}


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

    def terminate(self, seconds: float = 10) -> int:
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


def variable(name: str) -> str:
    """Return what ./dev test says, or fail with the remedy."""
    value = os.environ.get(name)
    if not value:
        pytest.fail(f"{name} is not set: run this with ./dev test", pytrace=False)
    return value


@pytest.fixture(scope="session")
def machine() -> Machine:
    """The namespace that the tests run in."""
    variable("FLASHPODS_TEST_STACK")
    return inside()


@pytest.fixture(scope="session")
def stack() -> SharedStack:
    """The run's one stack."""
    info = Info(**json.loads(Path(variable("FLASHPODS_TEST_STACK")).read_text()))
    path = Path(variable("FLASHPODS_TEST_SETTINGS"))
    return SharedStack(
        info=info,
        token=Path(info.token_file).read_text().strip(),
        settings=Settings(**json.loads(path.read_text())),
        settings_path=path,
    )


@pytest.fixture
async def api(
    machine: Machine, request: pytest.FixtureRequest, reachable_path: Path
) -> AsyncIterator[ApiFactory]:
    """Return a function that starts an API: ``api({"jobs": {...}}) -> RunningApi``.

    Keywords: ``parts`` (as :class:`MiniStack`, by default all but the reaper), ``rate_limited``.
    """
    async with AsyncExitStack() as cleanup:

        def start(
            overrides: Mapping[str, Any] | None = None,
            *,
            parts: tuple[str, ...] = ("podman", "rsyncd", "api"),
            rate_limited: bool = False,
        ) -> RunningApi:
            number = sum(1 for _ in reachable_path.glob("api*"))
            stack = MiniStack(
                reachable_path / f"api{number}",
                machine,
                overrides=overrides if rate_limited else with_defaults(overrides or {}),
                parts=parts,
            )
            cleanup.callback(stack.stop)
            running = RunningApi(stack.start())
            cleanup.push_async_callback(running.client.aclose)
            return running

        yield start


@pytest.fixture(scope="module")
def shared(machine: Machine) -> Iterator[MiniStack]:
    """One stack for the tests of a module that leave it as it was."""
    with support.stack_of(machine) as stack:
        yield stack


@pytest.fixture
async def host(shared: MiniStack) -> AsyncIterator[Connected]:
    """The module's stack, with a client of this test."""
    async with support.connect(shared) as connected:
        yield connected


def with_defaults(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the overrides with the rate limit out of the way, unless they set one."""
    return {**overrides, "http": {**NO_RATE_LIMIT["http"], **overrides.get("http", {})}}
