"""A place that rsync's user may enter, with a database."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from rsync_hook_rig import OWNER, ROOT

from flashpods.adapters.sqlite.migrations import migrate


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that the other users may enter, unlike pytest's."""
    directory = Path(tempfile.mkdtemp(prefix="flashpods-hook-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def database(place: Path) -> Path:
    directory = place / "db"
    directory.mkdir(mode=0o700)
    path = directory / "flashpods.db"
    migrate(path)
    if ROOT:
        for owned in (directory, *directory.iterdir()):
            os.chown(owned, OWNER, OWNER)
    return path
