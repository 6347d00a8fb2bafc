"""Attacks: each is a row of the scoreboard that ``./dev attacks`` prints.

A test carries ``@pytest.mark.attack(NUMBER, NAME)``, the number of the attack in issue 4 (12: the
load), and counts with the ``score`` fixture. Those marked ``attacks_full`` run only with
``./dev attacks --full``; nothing is skipped, they are left out of the collection.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

# The helpers of the system tests drive the same stack; the fault experiments' checker judges it.
sys.path.insert(1, str(Path(__file__).parents[1] / "faults"))
sys.path.insert(1, str(Path(__file__).parents[1] / "system"))

import support
from judging import Judge
from scoring import EXAMPLES, FULL, ONLY, QUOTA_BYTES, QUOTA_FILES, Score
from support import Connected

from flashpods_dev.machine import IMAGE, Machine, inside
from flashpods_dev.stack import MiniStack

ROWS: list[Score] = []
# One attack, on a machine that does other things as well.
SECONDS = max(1800 if FULL else 900, 60 * EXAMPLES)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marks."""
    config.addinivalue_line("markers", "attack(number, name): a row of the attacks' scoreboard")
    config.addinivalue_line("markers", "attacks_full: long; only with ./dev attacks --full")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what was not asked for."""
    keep: list[pytest.Item] = []
    out: list[pytest.Item] = []
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(SECONDS))
        mark = item.get_closest_marker("attack")
        wanted = mark is None or not ONLY or ONLY in f"{mark.args[0]} {mark.args[1]}".lower()
        full = item.get_closest_marker("attacks_full") is None or FULL
        (keep if wanted and full else out).append(item)
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = keep
    # What the token must have left no trace in is all that the others did.
    items.sort(
        key=lambda item: ((mark := item.get_closest_marker("attack")) and mark.args[0]) == 10
    )


def pytest_collection_finish(session: pytest.Session) -> None:
    """Have each attack on the board from the start: one that is never tried was not held."""
    ROWS.extend(
        item.stash.setdefault(KEY, Score(*mark.args))
        for item in session.items
        if (mark := item.get_closest_marker("attack")) is not None
    )
    write_board()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Keep each attack's row, also of one that did not get as far as counting."""
    report: pytest.TestReport = yield  # type: ignore[assignment] # pluggy's wrapper protocol
    mark = item.get_closest_marker("attack")
    if mark is not None:
        row = item.stash[KEY]
        if report.when == "call":
            row.seconds = report.duration
            if report.passed and not row.tries:  # it counts nothing itself
                row.tries = row.passed = 1
        if report.failed:
            row.failed = True
            row.tries = max(row.tries, 1)
            row.passed = min(row.passed, row.tries - 1)
            what = str(call.excinfo.value) if call.excinfo else ""
            row.note((what or str(report.longrepr).splitlines()[-1]).splitlines()[0][:200])
        write_board()
    return report  # type: ignore[return-value] # likewise


KEY = pytest.StashKey[Score]()


def write_board() -> None:
    """Write the rows where ./dev attacks reads them, also those of a run that is cut off."""
    if path := os.environ.get("FLASHPODS_SCOREBOARD"):
        rows = [{k: v for k, v in asdict(row).items() if k != "_shares"} for row in ROWS]
        Path(path).write_text(json.dumps(rows))


@pytest.fixture
def score(request: pytest.FixtureRequest) -> Score:
    """The row of this test; one that counts nothing itself counts as one try."""
    row: Score = request.node.stash[KEY]
    return row


@pytest.fixture(scope="session")
def judge(shared: MiniStack) -> Iterator[Judge]:
    """The judge of the shared stack."""
    judge = Judge(shared)
    yield judge
    judge.close()


@pytest.fixture(autouse=True)
def judged(request: pytest.FixtureRequest) -> Iterator[None]:
    """Judge the shared stack after each attack on it."""
    judge: Judge | None = None
    if "shared" in request.fixturenames:
        judge = request.getfixturevalue("judge")
    yield
    if judge is not None:
        assert not (broken := judge.verdict()), "; ".join(broken[:5])


@pytest.fixture(scope="session")
def full() -> bool:
    """Whether to take the time that the real sizes need."""
    return FULL


@pytest.fixture(scope="session")
def machine() -> Machine:
    """The namespace that the attacks run in."""
    return inside()


@pytest.fixture(scope="session")
def shared(machine: Machine) -> Iterator[MiniStack]:
    """One stack for all attacks that another client survives, which is what they are to prove."""
    overrides = {
        "uploads": {
            "max_bytes": QUOTA_BYTES,
            "total_bytes": 2 * QUOTA_BYTES,
            "max_files": QUOTA_FILES,
        },
        "jobs": {"agent": {"image": IMAGE}},
    }
    with support.stack_of(machine, overrides) as stack:
        yield stack


@pytest.fixture
async def host(shared: MiniStack) -> AsyncIterator[Connected]:
    """A client of the shared stack."""
    async with support.connect(shared) as connected:
        yield connected


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory that the stack's user can reach, removed however full it is."""
    path = Path(tempfile.mkdtemp(prefix="a-", dir=os.environ["FLASHPODS_TEST_TMP"]))
    path.chmod(0o777)
    yield path
    shutil.rmtree(path, ignore_errors=True)
