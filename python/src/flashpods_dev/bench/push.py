"""A second push of a large tree with one changed file, beside the bytes of the tree itself."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from pathlib import Path

from flashpods.client import ClientConfig, FlashpodsClient
from flashpods.client.models import Upload
from flashpods_dev.bench.report import Result
from flashpods_dev.stack import MiniStack

FILES = 2048
FILE_BYTES = 512 * 1024
TOTAL = FILES * FILE_BYTES  # 1 GiB
PROJECT = "bench-push"
BASE_SECONDS = 120


def measure(stack: MiniStack, scratch: Path) -> list[Result]:
    """Push the tree, have a job use it, change a file, push again; count what went over."""
    tree = scratch / "push"
    _make(tree)
    try:
        first, second = asyncio.run(_pushes(stack, tree))
    finally:
        shutil.rmtree(tree, ignore_errors=True)
    assert first.sent_bytes is not None
    assert second.sent_bytes is not None
    return [
        Result(
            name="second push of a project, 1 of 2048 files changed",
            unit="MB sent",
            ours=second.sent_bytes / 1e6,
            peer_name="the tree",
            peer=TOTAL / 1e6,
            goal=0.01,
            at_most=True,
            note=f"rsync's own count; the first push sent {first.sent_bytes / 1e6:.0f} MB",
        )
    ]


def _make(tree: Path) -> None:
    """Make files that no compression shortens."""
    for number in range(FILES):
        file = tree / f"d{number % 32:02}" / f"f{number:04}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(os.urandom(FILE_BYTES))


async def _pushes(stack: MiniStack, tree: Path) -> tuple[Upload, Upload]:
    config = ClientConfig(token=stack.layout.token.read_text().strip(), api_url=stack.api_url)
    base = Path(stack.settings["paths"]["transfers"]) / ".bases" / PROJECT
    async with FlashpodsClient(config) as client:
        first = await client.push(tree, project=PROJECT)
        if first.size_bytes != TOTAL:
            raise RuntimeError(f"the host counts {first.size_bytes} bytes")
        job = await client.create_job(type="worker", command="true", files_id=first.upload_id)
        await client.wait(job.job_id)
        end = time.monotonic() + BASE_SECONDS
        while not base.is_dir():  # kept once the job's container has gone, which has no event
            if time.monotonic() > end:
                raise RuntimeError("the host keeps no base")
            await asyncio.sleep(0.1)
        (tree / "d07" / "f0007").write_bytes(os.urandom(FILE_BYTES))
        second = await client.push(tree, project=PROJECT)
        if second.size_bytes != TOTAL:
            raise RuntimeError(f"the second push has {second.size_bytes} bytes")
        await client.delete_upload(second.upload_id)
        return first, second
