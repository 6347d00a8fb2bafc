"""One HOST in QEMU for all tests here; only ``./dev vm`` collects them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

# HOST is the lab's, on another kernel; the network's servers are those of the quick tests.
sys.path.insert(1, str(Path(__file__).parents[1] / "boundary"))
sys.path.insert(1, str(Path(__file__).parents[1] / "lab"))

from deployment import Parts
from emulated import Emulated

from flashpods_dev.lab.run import PRODUCT, ROOT, STATE
from flashpods_dev.machine import inside
from flashpods_dev.vm.run import DISKS

if DISKS not in os.environ:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def deployed() -> Iterator[Emulated]:
    """HOST, emulated, and LAPTOP, from what the modules render."""
    root, product, state = (Path(os.environ[name]) for name in (ROOT, PRODUCT, STATE))
    with ExitStack() as stack:
        yield Emulated(stack, Parts(inside(), root, product, state), Path(os.environ[DISKS]))
