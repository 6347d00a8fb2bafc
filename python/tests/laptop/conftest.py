"""The laptop's side under trouble: ``./dev laptop`` runs this directory, ``./dev test`` does not.

Stacks of their own, a proxy between, the real command. What takes minutes (a laptop that sleeps
longer than any timeout) is marked ``laptop_full`` and runs with ``./dev laptop --full``; nothing is
skipped, it is left out of the collection.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

# The helpers of the system tests drive the same stack.
sys.path.insert(1, str(Path(__file__).parents[1] / "system"))

import support
from command_line import Laptop
from proxy import Proxy

from flashpods_dev.machine import Machine, inside
from flashpods_dev.stack import MiniStack

FULL = os.environ.get("FLASHPODS_LAPTOP_FULL") == "1"
SECONDS = 1500 if FULL else 300  # of one test, on a machine that does other things as well


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark."""
    config.addinivalue_line("markers", "laptop_full: minutes; only with ./dev laptop --full")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what was not asked for."""
    for item in items:
        item.add_marker(pytest.mark.timeout(SECONDS))
    if FULL:
        return
    long = [item for item in items if item.get_closest_marker("laptop_full")]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in long]


@pytest.fixture(scope="session")
def machine() -> Machine:
    """The namespace that the tests run in; fails where a tool is missing."""
    if not os.environ.get("FLASHPODS_TEST_TMP"):
        pytest.fail("no stack: run this with ./dev laptop", pytrace=False)
    for tool in ("tmux", "faketime", "rsync", "git"):
        if shutil.which(tool) is None:
            pytest.fail(f"{tool} is missing: ./dev laptop installs it", pytrace=False)
    return inside()


@pytest.fixture(scope="module")
def stack(machine: Machine) -> Iterator[MiniStack]:
    """One stack for the tests of a module; they restart its API."""
    with support.stack_of(machine) as found:
        yield found


@pytest.fixture
async def proxy(stack: MiniStack) -> AsyncIterator[Proxy]:
    """What stands between the laptop and the API."""
    async with Proxy("127.0.0.1", stack.port) as found:
        yield found


@pytest.fixture
async def rsync_proxy(stack: MiniStack) -> AsyncIterator[Proxy]:
    """What stands between the laptop and the rsync daemon."""
    async with Proxy("127.0.0.1", stack.rsync_port) as found:
        yield found


@pytest.fixture
def laptop(stack: MiniStack, proxy: Proxy, rsync_proxy: Proxy, tmp_path: Path) -> Laptop:
    """A laptop behind both proxies."""
    return Laptop.of(stack, tmp_path, api_url=proxy.url, rsync_host=rsync_proxy.address)
