"""One site for all tests of the lab; only ``./dev lab`` collects them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

# The boundary's servers, probes and verdicts are those of the quick tests.
sys.path.insert(1, str(Path(__file__).parents[1] / "boundary"))
sys.path.append(str(Path(__file__).parents[1] / "system"))  # the guide's parser

from deployment import Deployment, Parts
from sites import Site

from flashpods_dev.lab import parts
from flashpods_dev.lab.run import PRODUCT, ROOT, STATE
from flashpods_dev.machine import inside

TROUBLES = "test_troubles.py"  # twenty minutes: only where it is named

if STATE not in os.environ:
    collect_ignore_glob = ["test_*.py"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what runs on our own programs, and take this process's part of the tests."""
    if not any(TROUBLES in word for word in config.args):
        config.hook.pytest_deselected(items=[i for i in items if i.path.name == TROUBLES])
        items[:] = [item for item in items if item.path.name != TROUBLES]
    deployed = ["deployed" in getattr(item, "fixturenames", ()) for item in items]
    for item, it in zip(items, deployed, strict=True):
        if it:
            item.add_marker(pytest.mark.deployed)
    ours = dict(zip(items, parts.shares(os.environ.get(parts.PART), deployed), strict=True))
    config.hook.pytest_deselected(items=[item for item in items if not ours[item]])
    items[:] = [item for item in items if ours[item]]


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """HOST and LAPTOP with stand-ins, for the boundary alone."""
    with ExitStack() as stack:
        yield Site(stack, inside(), Path(os.environ[ROOT]), Path(os.environ[STATE]))


@pytest.fixture(scope="session")
def deployed() -> Iterator[Deployment]:
    """HOST and LAPTOP from what the modules render."""
    with ExitStack() as stack:
        state = Path(os.environ[STATE])
        root, product = Path(os.environ[ROOT]), Path(os.environ[PRODUCT])
        yield Deployment(stack, Parts(inside(), root, product, state))
