"""The lab's tests run as two pytests at once: what each gets, and how either's failure is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from flashpods_dev.lab import halves

STATE = "FLASHPODS_TEST_HALVES"


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """Return a directory with a ``tests/lab`` of two quick modules; the others' can be told."""
    lab = tmp_path / "python" / "tests" / "lab"
    lab.mkdir(parents=True)
    body = f"import os\n\ndef test_it():\n    print(os.environ['{STATE}'])\n"
    (lab / "test_checks.py").write_text(body)
    (lab / "test_others.py").write_text(body)
    return tmp_path / "python"


def run(python: Path) -> int:
    state = python.parent / "state"
    state.mkdir()
    # A pytest of its own, without this project's plugins and options.
    arguments = ["-q", "-s", "-p", "no:cacheprovider", f"--rootdir={python}", "-c", "/dev/null"]
    return halves.run(python, arguments, {STATE: str(state)}, STATE, 60)


def test_both_run_each_in_a_place_of_its_own(
    python: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(python) == 0
    said = capfd.readouterr().out
    for name in ("scripts", "others"):
        assert f"{python.parent}/state/{name}" in said
    assert said.count("1 passed") == 2


@pytest.mark.parametrize("module", ["test_checks.py", "test_others.py"])
def test_a_failure_of_either_is_the_whole_s(
    python: Path, module: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (python / "tests" / "lab" / module).write_text("def test_it():\n    assert 'this' == 'that'\n")
    assert run(python) == 1
    assert "'this' == 'that'" in capfd.readouterr().out


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
def test_only_the_whole_is_worth_two(words: list[str], whole: bool) -> None:
    assert halves.whole(words) is whole
