"""The lab's tests run as several pytests at once: what each gets, and how a failure is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from flashpods_dev.lab import parts

STATE = "FLASHPODS_TEST_PARTS"


def test_each_test_is_in_one_part() -> None:
    deployed = [True, True, False, True, False, True, True]
    dealt = [parts.shares(name, deployed) for name in parts.NAMES]
    assert [sum(has) for has in zip(*dealt, strict=True)] == [1] * len(deployed)
    assert dealt[-1] == [not it for it in deployed]
    assert [sum(part) for part in dealt] == [2, 2, 1, 2]
    assert parts.shares(None, deployed) == [True] * len(deployed)


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """Return a directory whose ``tests/lab`` has one quick test."""
    lab = tmp_path / "python" / "tests" / "lab"
    lab.mkdir(parents=True)
    (lab / "test_one.py").write_text(
        f"import os\n\ndef test_it():\n"
        f"    print(os.environ['{STATE}'], os.environ['{parts.PART}'])\n"
    )
    return tmp_path / "python"


def run(python: Path) -> int:
    state = python.parent / "state"
    state.mkdir()
    # A pytest of its own, without this project's plugins and options.
    arguments = ["-q", "-s", "-p", "no:cacheprovider", f"--rootdir={python}", "-c", "/dev/null"]
    return parts.run(python, arguments, {STATE: str(state)}, STATE, 600)


def test_all_run_each_in_a_place_of_its_own(
    python: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(python) == 0
    said = capfd.readouterr().out
    for name in parts.NAMES:
        assert f"{python.parent}/state/{name} {name}" in said
    assert said.count("1 passed") == len(parts.NAMES)


@pytest.mark.parametrize("name", [parts.NAMES[0], parts.NAMES[-1]])
def test_a_failure_of_any_is_that_of_the_whole(
    python: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (python / "tests" / "lab" / "test_one.py").write_text(
        f"import os\n\ndef test_it():\n    assert os.environ['{parts.PART}'] != '{name}'\n"
    )
    assert run(python) == 1
    assert "1 failed" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("words", "whole"),
    [
        ([], True),
        (["--durations=9", "-x"], True),
        (["-k", "rsync"], False),
        (["-m", "not long"], False),
        (["tests/lab/test_checks.py"], False),
    ],
)
def test_only_the_whole_is_worth_several(words: list[str], whole: bool) -> None:
    assert parts.whole(words) is whole
