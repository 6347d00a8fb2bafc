"""The page at /ui in headless Chromium, on a real stack: ``./dev ui``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(1, str(Path(__file__).parents[1] / "system"))

import httpx
import support
from browser import Browser, Page

from flashpods_dev.machine import Machine, inside
from flashpods_dev.stack import MiniStack


@pytest.fixture(scope="session")
def machine() -> Machine:
    return inside()


@pytest.fixture(scope="session")
def pictures(machine: Machine) -> Path:
    """Where pictures of the page are left."""
    directory = machine.dev / "ui"
    directory.mkdir(exist_ok=True)
    return directory


@pytest.fixture(scope="session")
def stack(machine: Machine) -> Iterator[MiniStack]:
    # The host's own rate: the page must get along with it.
    settings = {"http": {"rate_per_second": 100, "rate_burst": 10, "metrics_sample_seconds": 0.5}}
    with support.stack_of(machine, settings) as stack:
        yield stack


@pytest.fixture(scope="session")
def token(stack: MiniStack) -> str:
    return stack.layout.token.read_text().strip()


@pytest.fixture
def client(stack: MiniStack, token: str) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(
        base_url=stack.api_url, headers=headers, trust_env=False, timeout=60
    ) as client:
        yield client


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, stack: MiniStack) -> Iterator[Page]:
    """A tab of its own, at the page; nothing may have gone wrong in it at the end."""
    with browser.tab() as page:
        page.open(f"{stack.api_url}/ui")
        yield page
        assert page.faults == []


@pytest.fixture
def inside_page(page: Page, token: str) -> Page:
    """The page, with the token given."""
    page.log_in(token)
    return page
