"""What runs within HOST, started by tests/vm/test_vm_checks.py: ``./dev up`` where limits hold."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from guest_stack import CHECKOUT, Stack, up

from flashpods_dev.vm import guest

if str(CHECKOUT) != guest.CHECKOUT:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """A stack that the tests share; the last one stops it."""
    with up() as running:
        yield running
