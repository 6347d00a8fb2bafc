"""What the tests over HTTP share: a busy machine may take its time for a look at the health."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from flashpods.web import checks


@pytest.fixture(autouse=True)
def patience() -> Iterator[None]:
    """Let a check take long; the test of its deadline sets one of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, "CHECK_SECONDS", 60.0)
        yield
