"""Who waits for a turn of the helper waits no longer than for its answer, and ends no other's."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from flashpods.adapters.files import tree_tool
from flashpods.adapters.files.tree_helper import TreeHelper
from flashpods.errors import Unavailable


async def test_a_turn_that_does_not_come_is_unavailable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tree_tool, "command", tree_tool.program)  # without a namespace
    helper = TreeHelper()
    request = {"measure": [str(tmp_path)], "most": 100, "seconds": 20}
    await helper.ask(request, seconds=20)
    process = helper._process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    first = asyncio.create_task(helper.ask(request, seconds=20))
    await asyncio.sleep(0)  # it has its turn
    with pytest.raises(Unavailable):
        await helper.ask(request, seconds=0.05)
    assert process.returncode is None
    os.kill(process.pid, signal.SIGCONT)
    assert len(await first) == 1
    await helper.close()
