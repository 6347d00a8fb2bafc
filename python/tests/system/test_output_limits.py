"""The log's limit: what a job may write is bounded on the disk, whoever is there to read it."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import support
from output_rig import GATE, LINE, MB, log_file, open_gate, page
from running_api import ApiFactory, RunningApi
from support import Connected


@dataclass(slots=True)
class Disk:
    """Watches what the logs take on disk, each inode once."""

    host: Connected | RunningApi
    peak: int = 0
    task: asyncio.Task[None] | None = field(default=None)

    def used(self) -> int:
        inodes: dict[int, int] = {}
        paths = self.host.settings.paths
        for root in (paths.logs, paths.capture):
            for directory, _, names in os.walk(root):  # passes over what goes meanwhile
                for name in names:
                    with contextlib.suppress(FileNotFoundError):  # rotated away since it was listed
                        info = Path(directory, name).lstat()
                        inodes[info.st_ino] = info.st_size
        return sum(inodes.values())

    async def watch(self) -> None:
        while True:
            self.peak = max(self.peak, await asyncio.to_thread(self.used))
            await asyncio.sleep(0.01)

    async def __aenter__(self) -> Disk:
        self.task = asyncio.create_task(self.watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self.task is not None
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task
        self.peak = max(self.peak, self.used())


def raw_most(log_bytes: int) -> int:
    """Return what one raw file holds before conmon rotates it (adapters/files/capture.py)."""
    return 3 * log_bytes + 64 * 1024 + 16 * 1024


async def check_truncated(
    host: Connected | RunningApi, row: dict[str, Any], log_bytes: int, marker: str
) -> None:
    assert (row["status"], row["exit_code"]) == ("completed", 0), row
    found = await page(host.client, row["id"], tail=2)
    assert found["truncated"]
    last, line = found["output"].splitlines()[-1], found["output"].splitlines()[0]
    assert last == f"[..] [TRUNCATED - log exceeded {marker} MB limit]"
    assert LINE.match(line)
    assert log_bytes - 1100 < found["total_bytes"] <= log_bytes + len(last) + 1
    assert found["total_bytes"] == log_file(host, row["id"]).stat().st_size
    assert not (host.settings.paths.capture / row["id"]).exists()
    text, end = await support.follow_to_end(host.client, row["id"], offset=log_bytes - 5000)
    assert text.splitlines()[-1] == last
    assert end.id == found["total_bytes"]


# 1000 bytes a line, numbered; more than 50 MB of the log.
FLOOD = (
    "python3 -c \"import os\nrest = b'.' * 980 + b'\\n'\n"
    "for n in range({}): os.write(1, b'%019d' % n + rest)\"; echo after >&2; "
    "echo done > /artifacts/done"
)


async def test_the_limit_of_50_mb(host: Connected) -> None:
    log_bytes = 50 * MB
    command = GATE.format(f"{FLOOD.format(110_000)}; gate go; rm /artifacts/go")
    async with Disk(host) as disk:
        job_id = await support.submit(host.client, command)
        # The raw output is there for as long as the job is: it can't be over before it is seen.
        await support.true_soon(lambda: disk.peak > log_bytes, "the flood", 2 * support.SECONDS)
        open_gate(host, job_id, "go")
        row = await support.ended(host.client, job_id, 2 * support.SECONDS)
    assert log_bytes < disk.peak <= log_bytes + 3 * raw_most(log_bytes) + MB
    await check_truncated(host, row, log_bytes, "50")
    # The beginning is kept, line by line.
    first = await page(host.client, row["id"], offset=0, limit=MB)
    numbers = [int(text[:19]) for text in support.texts(first["output"])]
    assert numbers == list(range(len(numbers)))
    listed = (await host.client.get(f"/jobs/{row['id']}/artifacts")).json()["artifacts"]
    assert [a["name"] for a in listed] == ["done"]  # the job went on


async def test_the_disk_stays_bounded_under_yes(api: ApiFactory) -> None:
    log_bytes = 256 * 1024
    running = api({"output": {"log_bytes": log_bytes}})
    async with Disk(running) as disk:
        row = await support.run(running.client, "yes | head -c 20000000; echo end")
    assert 0 < disk.peak <= log_bytes + 3 * raw_most(log_bytes) + 64 * 1024
    await check_truncated(running, row, log_bytes, "0.25")


async def test_the_disk_stays_bounded_while_the_api_is_down(api: ApiFactory) -> None:
    log_bytes = 256 * 1024
    running = api({"output": {"log_bytes": log_bytes}})
    command = GATE.format("echo first; gate go; yes | head -c 10000000; echo end")
    job_id = await support.submit(running.client, command)
    await support.until(running.client, job_id, "running")
    running.kill()
    async with Disk(running) as disk:
        open_gate(running, job_id, "go")
        done = await asyncio.to_thread(running.stack.run_podman, "wait", f"job_{job_id}")
        assert done.stdout.strip() == "0", done.stderr
    assert 0 < disk.peak <= log_bytes + 2 * raw_most(log_bytes) + 64 * 1024
    running.start()
    row = await support.ended(running.client, job_id)
    await check_truncated(running, row, log_bytes, "0.25")
    assert support.texts((await page(running.client, job_id, offset=0, limit=1))["output"]) == [
        "first"
    ]
