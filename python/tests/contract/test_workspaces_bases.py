"""A job's tree becomes its project's base: whoever else is at the tree, and killed at any line."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from flashpods.adapters.files import exchange, tree_tool, trees
from flashpods.adapters.files.workspaces import FileWorkspaces

JOB = "1" * 16
KILLED = 99
READ_ONLY = {"walk", "scan", "open_dir", "open_path", "go_on", "try_lock"}  # between the acts
TRACED = {tree_tool.__file__, trees.__file__}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    laid(tmp_path)
    return tmp_path


def laid(root: Path) -> None:
    """Lay out a project with a base, and a job's tree that is to replace it."""
    for name in ("finalized", "transfers/.bases/p/src", f"work/{JOB}/src"):
        (root / name).mkdir(parents=True)
    (root / "transfers/.bases/p/src/f").write_text("old")
    (root / "work" / JOB / "src/f").write_text("new")
    (root / "work" / JOB / "link").symlink_to("src/f")


def spaces_of(root: Path) -> FileWorkspaces:
    return FileWorkspaces(root / "transfers", root / "finalized", root / "work")


def keep(root: Path, job: str = JOB, project: str = "p") -> None:
    where = (str(root / "work"), job, str(root / "transfers"), project)
    tree_tool.keep(*where, bases=9, most=100)


def base(root: Path) -> str | None:
    try:
        return (root / "transfers/.bases/p/src/f").read_text()
    except FileNotFoundError:
        return None


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


async def test_nobody_takes_a_tree_away_that_becomes_a_base(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_work, go = threading.Event(), threading.Event()
    arm = trees.arm

    def slow(*arguments: Any) -> None:
        at_work.set()
        assert go.wait(120)
        arm(*arguments)

    monkeypatch.setattr(tree_tool, "arm", slow)
    kept = asyncio.create_task(spaces_of(root).keep_as_base(JOB, "p", keep=9))
    assert await asyncio.to_thread(at_work.wait, 120)
    assert await spaces_of(root).discard(JOB) is False
    assert (root / "work" / JOB / "src/f").read_text() == "new"
    go.set()
    await kept
    assert await spaces_of(root).discard(JOB) is True
    assert (base(root), names(root / "transfers/.bases"), names(root / "work")) == (
        "new",
        ["p"],
        [],
    )


@pytest.mark.parametrize("name", [JOB, f".rm-{JOB}"])
def test_a_tree_whose_lock_is_held_is_let_be(
    root: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "work" / JOB).rename(root / "work" / name)
    held = os.open(root / "work" / name, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    assert tree_tool.main(["discard_idle", str(root / "work"), JOB]) == 0
    assert (root / "work" / name / "src/f").exists()
    os.close(held)
    assert tree_tool.main(["discard_idle", str(root / "work"), JOB]) == 0
    assert tree_tool.main(["discard_idle", str(root / "absent"), JOB]) == 0
    told = [json.loads(line)["ok"] for line in capsys.readouterr().out.splitlines()]
    assert (told, names(root / "work")) == ([False, True, True], [])


def test_a_tree_that_went_while_its_lock_was_waited_for_is_absent(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree_tool, "lock", lambda *_: tree_tool.discard(str(root / "work"), JOB))
    keep(root)
    assert (base(root), names(root / "transfers/.bases")) == ("old", ["p"])


async def test_a_failure_leaves_the_former_base(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(exchange, "exchange", broken)
    with pytest.raises(OSError, match="no"):
        await spaces_of(root).keep_as_base(JOB, "p", keep=9)
    assert base(root) == "old"


def killed_at(line: int, root: Path) -> bool:
    """Keep in a child that ends before the given line of ours; return whether there is one."""
    left = line

    def trace(frame: FrameType, event: str, _argument: object) -> Callable[..., Any] | None:
        nonlocal left
        code = frame.f_code
        if code.co_filename not in TRACED or code.co_name in READ_ONLY:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                os._exit(KILLED)
        return trace

    child = os.fork()
    if child == 0:
        status = 1
        try:
            sys.settrace(trace)
            keep(root)
            status = 0
        finally:
            os._exit(status)
    _, ended = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(ended) in {0, KILLED}
    return ended != 0


def by_turns(parent: int, name: str, other_parent: int, other: str) -> None:
    """Refuse as a file system does that can't exchange."""
    del parent, name
    os.stat(other, dir_fd=other_parent)
    raise OSError(errno.EINVAL, "can't")


def all_kills(tmp_path: Path) -> Iterator[tuple[Path, str | None]]:
    """Yield a place and the base that is there right after the kill, for each line."""
    line = 0
    late = True
    while late:
        line += 1
        place = tmp_path / str(line)
        laid(place)
        late = killed_at(line, place)
        yield place, base(place)
    assert line > 40, "it was not traced"


def test_killed_at_any_line_there_is_a_whole_base(tmp_path: Path) -> None:
    seen = []
    for place, found in all_kills(tmp_path):
        seen.append(found)
        keep(place)
        assert tree_tool.discard_idle(str(place / "work"), JOB)
        assert base(place) == "new" or found == "old"
        assert (names(place / "transfers/.bases"), names(place / "work")) == (["p"], [])
    assert set(seen) == {"old", "new"}


def test_killed_where_nothing_can_be_exchanged_the_next_call_restores_the_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "exchange", by_turns)
    seen = []
    for place, found in all_kills(tmp_path):
        seen.append(found)
        keep(place, job="2" * 16, project="other")  # absent, of another project
        assert base(place) in {"old", "new"}
        assert names(place / "transfers/.bases") == ["p"]
    assert set(seen) == {"old", "new", None}
    assert seen.count(None) < 5


def test_names_are_exchanged_or_neither_is_touched(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "d").mkdir()
    fd = os.open(tmp_path, os.O_RDONLY)
    exchange.exchange(fd, "a", fd, "d")
    assert ((tmp_path / "d").read_text(), (tmp_path / "a").is_dir()) == ("a", True)
    with pytest.raises(FileNotFoundError):
        exchange.exchange(fd, "a", fd, "absent")
    os.close(fd)
    assert names(tmp_path) == ["a", "d"]
