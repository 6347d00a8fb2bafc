"""Identity end to end, with real SPIRE: ``./dev identity``."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

# The helpers of the system tests drive the same stack; the faults' know how busy the machine is;
# the boundary's have a network around it.
sys.path.insert(1, str(Path(__file__).parents[1] / "boundary"))
sys.path.insert(1, str(Path(__file__).parents[1] / "faults"))
sys.path.insert(1, str(Path(__file__).parents[1] / "system"))

import identity_rig as rig
import support
from support import Connected

from flashpods_dev.machine import Machine, inside
from flashpods_dev.stack import MiniStack


@pytest.fixture(scope="session")
def machine() -> Machine:
    """The namespace that the tests run in."""
    return inside()


@pytest.fixture(scope="session")
def shared(machine: Machine) -> Iterator[MiniStack]:
    """One stack for the tests that leave it as it was."""
    with rig.stack_with_identity(machine) as stack:
        yield stack


@pytest.fixture
async def host(shared: MiniStack) -> AsyncIterator[Connected]:
    """A client of the shared stack."""
    async with support.connect(shared) as connected:
        yield connected
