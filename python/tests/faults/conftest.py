"""The fault experiments: a scoreboard, stacks of their own, and what only the full run does.

``./dev faults`` runs this directory and prints the scoreboard; ``./dev test`` runs it as tests.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from faultboard import ALL, RigFactory, Score, score_of, write_board
from rig import Rig

from flashpods_dev.machine import Machine, inside

# The parser of event streams is the system tests' own.
sys.path.insert(0, str(Path(__file__).parents[1] / "system"))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "faults_full: left to ./dev faults, too long for ./dev test")
    config.addinivalue_line("markers", "experiment(number, name): its line on the scoreboard")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes too long for every day; it is no skip, it was not asked for."""
    if ALL:
        return
    ours = Path(__file__).parent
    long = [i for i in items if i.path.is_relative_to(ours) and i.get_closest_marker("faults_full")]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in long]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Have each experiment on the board from the start: one that is never tried has not held."""
    for item in session.items:
        if (marker := item.get_closest_marker("experiment")) is not None:
            score_of(*marker.args)
    write_board()


def pytest_sessionfinish() -> None:
    write_board()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Put a test that broke outside its tries onto the board too."""
    report = yield
    score = getattr(item, "score", None)
    if call.excinfo is not None and score is not None and len(score.broken) == score.mark:
        score.broken.append(f"{call.when}: {str(call.excinfo.value).splitlines()[0][:300]}")
    if call.excinfo is not None:
        for rig in getattr(item, "rigs", []):
            report.sections.append(("the API's log", rig.stack.api.tail(60)))
    return report


@pytest.fixture
def score(request: pytest.FixtureRequest) -> Score:
    """The test's line on the board, from its marker ``experiment(number, name)``."""
    marker = request.node.get_closest_marker("experiment")
    found = score_of(*marker.args)
    found.mark = len(found.broken)
    request.node.score = found
    return found


@pytest.fixture(scope="session")
def machine() -> Machine:
    """The namespace that the tests run in."""
    if not os.environ.get("FLASHPODS_TEST_TMP"):
        pytest.fail("no stack: run this with ./dev faults or ./dev test", pytrace=False)
    return inside()


@pytest.fixture
async def rig_of(machine: Machine, request: pytest.FixtureRequest) -> AsyncIterator[RigFactory]:
    """Return ``await rig_of(settings, before=function of the layout)``, which starts a rig."""
    rigs = request.node.rigs = []
    async with AsyncExitStack() as cleanup:

        async def start(
            overrides: Mapping[str, Any] | None = None,
            *,
            before: Callable[[Rig], None] | None = None,
        ) -> Rig:
            state = Path(tempfile.mkdtemp(prefix="f-", dir=os.environ["FLASHPODS_TEST_TMP"]))
            state.chmod(0o755)  # noqa: ASYNC240 - one system call
            cleanup.callback(shutil.rmtree, state, ignore_errors=True)
            rig = Rig(state, machine, overrides, strict=ALL)
            rigs.append(rig)
            if before is not None:
                before(rig)
            cleanup.push_async_callback(asyncio.to_thread, rig.stack.stop)
            await asyncio.to_thread(rig.stack.start)
            await cleanup.enter_async_context(rig.connected())
            return rig

        yield start


@pytest.fixture
async def rig(rig_of: RigFactory) -> Rig:
    """A rig with the usual settings."""
    started: Rig = await rig_of()
    return started


@pytest.fixture(scope="session")
def shim() -> Path:
    """The preloaded library, where the stack's user can read it."""
    path = Path(os.environ["FLASHPODS_TEST_TMP"]) / "shim.so"
    source = Path(__file__).with_name("shim.c")
    command = ["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(path), str(source)]
    done = subprocess.run([*command, "-ldl"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    path.chmod(0o755)
    return path
