# ruff: noqa: ASYNC240 - looks at what the test has just made
"""The helper that works on jobs' trees, and the meter over it; the namespace is left out here."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flashpods.adapters.diskmeter import SystemDiskMeter
from flashpods.adapters.files import tree_tool
from flashpods.adapters.files.tree_helper import TreeHelper
from flashpods.errors import Unavailable
from flashpods.jobs.model import JobType
from flashpods.ports import ContainerState
from flashpods.testing.rows import running_row

MB = 1024**2
JOB = running_row("a" * 16, at=datetime.now(UTC))


@pytest.fixture(autouse=True)
def without_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test's user may have no subordinate ids."""
    monkeypatch.setattr(tree_tool, "command", tree_tool.program)


@pytest.fixture
async def helper() -> AsyncIterator[TreeHelper]:
    helper = TreeHelper()
    yield helper
    await helper.close()


def measure(*places: Path) -> dict[str, object]:
    return {"measure": [str(p) for p in places], "most": 100, "seconds": 20}


async def test_one_process_answers_many(helper: TreeHelper, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * MB)
    for _ in range(3):
        ((device, size, entries, _),) = await helper.ask(measure(tmp_path), seconds=20)
        assert (device, entries) == (tmp_path.stat().st_dev, 1)
        assert size >= MB
    together = [helper.ask(measure(tmp_path), seconds=20) for _ in range(20)]
    assert all(found[0][2] == 1 for found in await asyncio.gather(*together))


async def test_a_failure_is_unavailable_and_the_next_request_is_answered(
    helper: TreeHelper, tmp_path: Path
) -> None:
    with pytest.raises(Unavailable, match="File name too long"):
        await helper.ask(measure(tmp_path / ("x" * 300)), seconds=20)
    assert await helper.ask({"ease": str(tmp_path)}, seconds=20) is False


async def test_a_dead_one_is_replaced(helper: TreeHelper, tmp_path: Path) -> None:
    await helper.ask(measure(tmp_path), seconds=20)
    process = helper._process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    await process.wait()
    assert len(await helper.ask(measure(tmp_path), seconds=20)) == 1


async def test_one_that_hangs_is_ended_and_replaced(helper: TreeHelper, tmp_path: Path) -> None:
    await helper.ask(measure(tmp_path), seconds=20)
    process = helper._process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    with pytest.raises(Unavailable):
        await helper.ask(measure(tmp_path), seconds=0.2)
    assert await process.wait() == -signal.SIGKILL
    assert len(await helper.ask(measure(tmp_path), seconds=20)) == 1


async def test_a_helper_that_does_not_start_is_unavailable(
    helper: TreeHelper, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("command", "program"):  # root's, and everybody's
        monkeypatch.setattr(tree_tool, name, lambda *a: [sys.executable, "-c", "pass"])
    with pytest.raises(Unavailable):
        await helper.ask(measure(), seconds=20)
    for name in ("command", "program"):
        monkeypatch.setattr(tree_tool, name, lambda *a: ["/nonexistent"])
    with pytest.raises(Unavailable):
        await helper.ask(measure(), seconds=20)


# ------------------------------------------------------------------ the meter


def container(layer: Path | None, pid: int | None = None) -> ContainerState:
    return ContainerState(
        id="c" * 64, name="job_x", job_id="a" * 16, status="running", pid=pid, exit_code=None,
        oom_killed=False, backstop_hit=False, started_at=None, finished_at=None, layer=layer,
    )  # fmt: skip


@pytest.fixture
async def meter(tmp_path: Path) -> AsyncIterator[SystemDiskMeter]:
    for place in ("staging", "work"):
        (tmp_path / place / ("a" * 16)).mkdir(parents=True)
        (tmp_path / place / ("a" * 16) / "f").write_bytes(b"x" * MB)
    layer = tmp_path / "store" / "l" / "diff"
    layer.mkdir(parents=True)
    (layer / "f").write_bytes(b"x" * 2 * MB)
    meter = SystemDiskMeter(staging=tmp_path / "staging", work=tmp_path / "work")
    yield meter
    await meter.close()


async def test_a_worker_holds_its_artifacts_and_its_layer(
    meter: SystemDiskMeter, tmp_path: Path
) -> None:
    layer = tmp_path / "store" / "l" / "diff"
    whole = await meter.held(JOB, container(layer), most=100)
    assert (3 * MB <= whole.bytes < 4 * MB, whole.entries) == (True, 2)
    assert set(whole.where) == {tmp_path.stat().st_dev}
    without = await meter.held(JOB, container(None), most=100)
    assert MB <= without.bytes < 2 * MB


async def test_an_agent_holds_its_workspace_too(meter: SystemDiskMeter, tmp_path: Path) -> None:
    agent = replace(JOB, type=JobType.AGENT)
    found = await meter.held(agent, container(None), most=100)
    assert (2 * MB <= found.bytes < 3 * MB, found.entries) == (True, 2)


async def test_the_store_is_watched_once_it_was_seen(
    meter: SystemDiskMeter, tmp_path: Path
) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        layer = Path(memory) / "store" / "l" / "diff"
        layer.mkdir(parents=True)
        assert set(meter.fills()) == {tmp_path.stat().st_dev}
        await meter.held(JOB, container(layer), most=100)
        fills = meter.fills()
        assert set(fills) == {tmp_path.stat().st_dev, layer.stat().st_dev}
        for fill in fills.values():
            assert 0 <= fill.bytes_used <= fill.bytes_total
            assert 0 <= fill.fraction <= 1


async def test_what_was_counted_in_time_is_the_answer(
    meter: SystemDiskMeter, tmp_path: Path
) -> None:
    layer = tmp_path / "store" / "l" / "diff"
    for number in range(2000):
        (layer / f"f{number}").touch()
    hasty = SystemDiskMeter(staging=tmp_path / "staging", work=tmp_path / "work", seconds=0.001)
    try:
        part = await hasty.held(JOB, container(layer), most=10_000)
        process = hasty._helper._process
        assert (part.whole, part.entries < 2002) == (False, True)
        await hasty.held(JOB, container(layer), most=10_000)
        assert hasty._helper._process is process, "it was not ended"
    finally:
        await hasty.close()
    whole = await meter.held(JOB, container(layer), most=10_000)
    assert (whole.whole, whole.entries) == (True, 2002)
