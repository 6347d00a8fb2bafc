# ruff: noqa: E501 - the attacks are data
"""Attack 7: output without end and without a newline, and what would play with a terminal."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import support
from attacker import bystander, memory_mb
from scoring import FULL, MB, Score
from support import Connected

LOG_BYTES = 50 * MB
# adapters/files/capture.py: what one raw file holds before conmon rotates it, three of them.
DISK_MB = 50 + 3 * 3 * 50 + 8


class Disk:
    peak = 0.0


def used_mb(host: Connected) -> float:
    inodes: dict[int, int] = {}
    for root in (host.settings.paths.logs, host.settings.paths.capture):
        for place, _, names in os.walk(root):  # it passes over what goes meanwhile
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    info = os.lstat(f"{place}/{name}")
                    inodes[info.st_ino] = info.st_size
    return sum(inodes.values()) / MB


@asynccontextmanager
async def watched(host: Connected) -> AsyncIterator[Disk]:
    """Measure what logs take beyond what they took."""
    disk, before = Disk(), used_mb(host)

    async def watch() -> None:
        while True:
            disk.peak = max(disk.peak, await asyncio.to_thread(used_mb, host) - before)
            await asyncio.sleep(0.02)

    task = asyncio.create_task(watch())
    try:
        yield disk
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


FLOODS = {
    "no newline": "head -c {n} /dev/zero | tr '\\0' x; echo; echo end",
    "NUL bytes": "head -c {n} /dev/zero; echo; echo end",
    "newlines only": "head -c {n} /dev/zero | tr '\\0' '\\n'; echo end",
    "random bytes": "head -c {n} /dev/urandom; echo; echo end",
}


@pytest.mark.attack(7, "a flood of output: no newline, NULs, newlines only, any byte")
@pytest.mark.parametrize(
    "kind",
    [
        "no newline",
        "newlines only",
        pytest.param("NUL bytes", marks=pytest.mark.attacks_full),
        pytest.param("random bytes", marks=pytest.mark.attacks_full),
    ],
)
async def test_flood(host: Connected, score: Score, kind: str) -> None:
    size = 10 * 1024 * MB if FULL and kind == "no newline" else 300 * MB
    if kind == "newlines only":
        size = 10 * MB  # each becomes a line with its time
    before = memory_mb(host.stack.api.pid)
    peak = 0.0
    async with watched(host) as disk, bystander(host) as seen:
        job_id = await support.submit(host.client, FLOODS[kind].format(n=size))
        waiting = asyncio.create_task(
            support.ended(host.client, job_id, seconds=1500 if FULL else 600)
        )
        while not waiting.done():
            peak = max(peak, memory_mb(host.stack.api.pid) - before)
            await asyncio.wait({waiting}, timeout=0.1)
        row = await waiting
    with score.attempt():
        assert (row["status"], row["exit_code"]) == ("completed", 0), row
        found = (await host.client.get(f"/jobs/{job_id}/output", params={"tail": 2})).json()
        assert found["truncated"]
        assert found["total_bytes"] <= LOG_BYTES + 100
        assert len(found["output"]) < 2 * MB
    with score.attempt():
        score.figure("memory grown", peak, 120, "MB")
        score.figure("disk", disk.peak, DISK_MB, "MB")
        score.figure("others' p99", seen.p99, 1.0)
        assert seen.errors == 0
    score.note(
        f"{kind}: {size // MB} MB, disk {disk.peak:.0f} MB, memory {peak:.0f} MB, p99 {seen.p99 * 1000:.0f} ms"
    )


ANSI = r"printf '\033]0;title\007\033[2J\033[31mred\033[0m\r\033]52;c;aGk=\007\b\b\b\x00\xff\xfe\u202e\033P+q\033\\ data: x\r\nevent: end\r\n\r\nid: 9\n\n'; echo end"


@pytest.mark.attack(7, "escape sequences and forged events")
async def test_ansi(host: Connected, score: Score) -> None:
    """The host passes them on as text; no event and no line can be forged with them."""
    row = await support.run(host.client, ANSI)
    with score.attempt():
        text, end = await support.follow_to_end(host.client, row["id"])
        assert end.type == "end"
        whole = await support.output(host.client, row["id"])
        assert text == whole
        assert support.texts(whole)[-1] == "end"
        assert end.id == len(whole.encode())
