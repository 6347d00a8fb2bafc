"""What all tests share."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# A machine that is busy is slow at any example: how long one takes tells nothing of the product.
hypothesis.settings.register_profile(
    "any machine",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("any machine")

# Where these are set pytest shows a difference whole (see its `running_on_ci`): that of two times
# 200 kB takes it longer than a test may, and then nothing is shown.
for _variable in ("CI", "BUILD_NUMBER"):
    os.environ.pop(_variable, None)


def pytest_report_header() -> str:
    """Say whether the tests run beside a stack; the system tests fail without one."""
    return f"stack: {os.environ.get('FLASHPODS_TEST_STACK', 'none, system tests need ./dev test')}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies in tests/system."""
    for item in items:
        if "system" in item.path.parts:
            item.add_marker(pytest.mark.system)


@pytest.fixture
def reachable_path() -> Iterator[Path]:
    """A directory like ``tmp_path`` that the stack's user can reach (pytest's own is 0700)."""
    path = Path(tempfile.mkdtemp(prefix="t-", dir=os.environ.get("FLASHPODS_TEST_TMP")))
    path.chmod(0o777)
    yield path
    shutil.rmtree(path, ignore_errors=True)
