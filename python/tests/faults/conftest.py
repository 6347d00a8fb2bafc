"""The fault experiments: a scoreboard, stacks of their own, and what only the full run does.

``./dev faults`` runs this directory and prints the scoreboard; ``./dev test`` runs it as tests.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
from checker import percentile
from rig import Rig

from flashpods_dev.machine import Machine, StackError, inside

# The parser of event streams is the system tests' own.
sys.path.insert(0, str(Path(__file__).parents[1] / "system"))

# "1": ./dev faults --full; "0": ./dev faults; unset: ./dev test, the quick ones alone.
FULL = os.environ.get("FLASHPODS_FAULTS_FULL") == "1"
ALL = "FLASHPODS_FAULTS_FULL" in os.environ


def extent(full: int, usual: int, quick: int) -> int:
    """Return how often, or for how many seconds: ``--full``, ``./dev faults``, ``./dev test``."""
    return full if FULL else usual if ALL else quick


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


@dataclass
class Trial:
    """One try."""

    passed: bool = False


@dataclass
class Score:
    """A line of the scoreboard. Times in seconds."""

    number: int
    name: str
    tries: int = 0
    passed: int = 0
    recovery_seconds: float | None = None
    read_p99_seconds: float | None = None
    stretched: float = 1.0  # by which the bounds on time were stretched, as the machine was busy
    seconds: float = 0.0
    broken: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    detail: dict[str, Any] = field(default_factory=dict)
    mark: int = 0  # where the lines of the test at work begin in ``broken``

    @contextmanager
    def trial(self, what: str = "") -> Iterator[Trial]:
        """Count a try; a failed assertion is kept, and the next try goes on."""
        begun = time.monotonic()
        self.tries += 1
        trial = Trial()
        try:
            yield trial
        except (AssertionError, ExceptionGroup, OSError, sqlite3.Error, StackError) as e:
            causes = e.exceptions if isinstance(e, ExceptionGroup) else [e]
            self.broken += [
                f"{what}: {(str(c).splitlines() or [repr(c)])[0][:300]}" for c in causes
            ]
        else:
            trial.passed = True
            self.passed += 1
        self.seconds += time.monotonic() - begun
        write_board()

    def judge(
        self, broken: list[str], recovery: float | None = None, rig: Rig | None = None
    ) -> None:
        """Take in a verdict."""
        if recovery is not None:
            self.recovery_seconds = max(self.recovery_seconds or 0.0, round(recovery, 3))
        if rig is not None and rig.reads:
            p99 = round(percentile(rig.reads, 0.99), 4)
            self.read_p99_seconds = max(self.read_p99_seconds or 0.0, p99)
        if rig is not None and (stretched := round(rig.patience, 1)) > 1:
            self.stretched = max(self.stretched, stretched)
        assert not broken, "; ".join(broken[:5])

    def settle(self) -> None:
        """Fail the test if one of its tries failed."""
        mine = self.broken[self.mark :]
        assert not mine, "\n".join(mine)
        assert self.tries, "nothing was tried"


_BOARD: dict[tuple[int, str], Score] = {}


def score_of(number: int, name: str) -> Score:
    """Return the line of that name, made at its first use."""
    return _BOARD.setdefault((number, name), Score(number, name))


def pytest_sessionfinish() -> None:
    write_board()


def write_board() -> None:
    """Write the scoreboard as it is now: a long run can be looked at, and may be cut short."""
    if path := os.environ.get("FLASHPODS_FAULTS_BOARD"):
        rows = sorted(_BOARD.values(), key=lambda row: (row.number, row.name))
        Path(path).write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


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


RigFactory = Callable[..., Any]


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
