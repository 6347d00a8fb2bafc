"""What the experiments share. They run in the guest of ``./dev vm``, as root, beside nothing.

They are no part of ``./dev test``: a machine whose kernel has no cgroup v2 controllers can't run
them, and one that has them should not be asked to kill for memory. Elsewhere they are not
collected.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# The boundary's namespaces, servers and probes are those of the quick tests.
sys.path.insert(1, str(Path(__file__).parents[1] / "boundary"))

from guest_stack import CGROUPS, Stack, up

COLLECTED = bool(os.environ.get("FLASHPODS_VM"))  # set by ./dev vm
if not COLLECTED:
    collect_ignore_glob = ["test_*.py"]

NOTES = pytest.StashKey[list[str]]()
ROOT = CGROUPS / "cgroup.subtree_control"
ROOT_BEFORE = ROOT.read_text().strip() if COLLECTED else ""


@pytest.fixture(scope="module")
def module_stack() -> Iterator[Stack]:
    """A stack that a module's experiments share."""
    with up("shared") as running:
        yield running


@pytest.fixture
def stack(module_stack: Stack) -> Iterator[Stack]:
    """The shared stack, without a job."""
    yield module_stack
    module_stack.cancel_all()


@pytest.fixture
def note(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Return a function that notes a result, for the table at the end."""
    return pytestconfig.stash.setdefault(NOTES, []).append


@pytest.fixture
def root_controllers() -> Callable[[], str]:
    """Return a function that tells what is on below the root: before the first stack, and now."""
    return lambda: f"{ROOT_BEFORE} before the first stack, {ROOT.read_text().strip()} now"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was measured."""
    notes = terminalreporter.config.stash.get(NOTES, [])
    if notes:
        terminalreporter.section("what was seen")
    for line in notes:
        terminalreporter.write_line(line)
