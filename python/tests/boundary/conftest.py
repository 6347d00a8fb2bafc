"""One lab for all tests of the boundary; each test loads the rules that it is about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from netlab import Lab


@pytest.fixture(scope="session")
def session_lab() -> Iterator[Lab]:
    """The namespaces."""
    with ExitStack() as stack:
        yield Lab(stack)


@pytest.fixture
def lab(session_lab: Lab) -> Iterator[Lab]:
    """The namespaces, with the rules loaded."""
    session_lab.load()
    yield session_lab
    session_lab.unload()
