"""The running stack, and further ones of a test's own.

``./dev test`` starts one stack for the whole run and says where it is in the environment. A test
that kills the API or Podman, or wants other settings, makes its own with ``api``: it has its own
engine, store, database and ports, because recovery removes the containers that its database does
not know. Nothing here skips: without the stack these tests fail and say what to run.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import support
from running_api import ApiFactory, RunningApi, SharedStack
from support import Connected

from flashpods.config import Settings
from flashpods_dev.machine import Machine, inside
from flashpods_dev.stack import Info, MiniStack

# What a test's own API has beyond a host's defaults: no rate limit in the way of bursts.
NO_RATE_LIMIT = {"http": {"rate_per_second": 1e6, "rate_burst": 1_000_000}}


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
