"""A host for each test of a job's line."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from line_world import World


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    yield world
    await world.supervisor.close()
