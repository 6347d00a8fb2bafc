"""The modules on NixOS's own module tree; only ``./dev nix test`` collects these."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flashpods_dev.nix.evaluate import VARIABLES, Evaluator

CHECKOUT = Path(__file__).parents[3]

if not set(VARIABLES) <= set(os.environ):
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def evaluator() -> Evaluator:
    return Evaluator.assemble(CHECKOUT)
