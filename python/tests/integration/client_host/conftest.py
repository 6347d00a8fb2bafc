"""The host, its daemon, and a tree to push."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from client_host_rig import HttpHost, RsyncHost


@pytest.fixture
async def rsyncd(tmp_path: Path) -> AsyncIterator[RsyncHost]:
    directory = tmp_path / "daemon"
    directory.mkdir()
    found = RsyncHost(directory)
    found.start()
    yield found
    await found.stop()


@pytest.fixture
async def host(rsyncd: RsyncHost) -> AsyncIterator[HttpHost]:
    found = HttpHost(rsyncd.tree)
    found.rsync_url = rsyncd.url
    await found.start()
    async with asyncio.timeout(60):
        yield found
    await found.stop()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "a source: tree"
    (root / "sub/node_modules").mkdir(parents=True)
    (root / "sub/node_modules/left-out").write_text("x")
    for number in range(50):
        (root / f"f{number}").write_bytes(os.urandom(20_000))
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o4755)
    (root / "link").symlink_to("f1")
    (root / "-n\n$(x) *").write_text("odd")
    return root
