"""The walk that says what a tree takes on disk, whatever a job does to the tree meanwhile."""

from __future__ import annotations

import io
import itertools
import json
import os
from pathlib import Path

import pytest

from flashpods.adapters.files import disk_tool, trees
from flashpods.adapters.files.disk_tool import BLOCK, measure

MOST = 1_000_000
MB = 1024**2


def allocated(*paths: Path) -> int:
    return sum(path.lstat().st_blocks * BLOCK for path in paths)


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_an_absent_tree_and_a_file_are_empty(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert measure(str(tmp_path / "no"), MOST) == (0, 0, 0, True)
    assert measure(str(tmp_path / "file"), MOST) == (0, 0, 0, True)


def test_what_is_allocated_counts_not_what_is_promised(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "full").write_bytes(b"x" * MB)
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(2**40)
    with (tmp_path / "reserved").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 2 * MB)
    device, size, entries, whole = measure(str(tmp_path), MOST)
    assert (device, entries, whole) == (tmp_path.stat().st_dev, 4, True)
    assert size == allocated(*tmp_path.rglob("*"))
    assert 3 * MB <= size < 4 * MB


def test_a_file_of_many_names_takes_its_space_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * MB)
    for number in range(20):
        os.link(tmp_path / "a", tmp_path / f"b{number}")
    _, size, entries, _ = measure(str(tmp_path), MOST)
    assert (size, entries) == (allocated(tmp_path / "a"), 21)


def test_no_link_is_followed(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tmp_path / "big").write_bytes(b"x" * MB)
    (tree / "out").symlink_to("..")
    (tree / "file").symlink_to("../big")
    _, size, entries, _ = measure(str(tree), MOST)
    assert (size < MB, entries) == (True, 2)


def test_depth_costs_no_descriptor_and_no_stack(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=fd)
        deeper = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    os.close(fd)
    before = descriptors()
    assert measure(str(tmp_path), MOST)[2] == 3000
    assert descriptors() == before
    top = os.open(tmp_path, os.O_RDONLY)
    trees.remove(top, "d")  # pytest's own would run out of stack
    os.close(top)


def test_it_stops_above_the_most(tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / f"d{number}").mkdir()
        (tmp_path / f"d{number}" / "f").touch()
    assert measure(str(tmp_path), 60)[2] == 61


def test_it_stops_when_its_time_is_over_with_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a slow disk, where each entry takes a second; each place has its part of the time."""
    for place in ("a", "b"):
        (tmp_path / place / "d").mkdir(parents=True)
        for number in range(100):
            (tmp_path / place / "d" / f"f{number}").write_bytes(b"x" * 8192)
    ticks = itertools.count()
    monkeypatch.setattr("time.monotonic", lambda: float(next(ticks)))
    places = [str(tmp_path / place) for place in ("a", "b")]
    asked = {"measure": places, "most": MOST, "seconds": 60}
    for _, size, entries, whole in json.loads(disk_tool.answer(json.dumps(asked)))["ok"]:
        assert (20 < entries < 40, size > 10 * 8192, whole) == (True, True, False)
    asked["seconds"] = 1000
    for _, _, entries, whole in json.loads(disk_tool.answer(json.dumps(asked)))["ok"]:
        assert (entries, whole) == (101, True)


def test_a_directory_that_moves_meanwhile_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The walk stands in a/b/c when b is moved to the top: it comes back from there."""
    tree = tmp_path / "tree"
    (tree / "a" / "b" / "c").mkdir(parents=True)
    for path in (tree / "z", tree / "a" / "y"):
        path.mkdir()
        (path / "f").write_bytes(b"x" * MB)
    take, moved = disk_tool.Tally.take, []

    def spy(tally: disk_tool.Tally, directory: int) -> list[str]:
        found = sorted(take(tally, directory), reverse=True)  # a and b come first
        if Path(f"/proc/self/fd/{directory}").readlink().match("a/b/c"):
            (tree / "a" / "b").rename(tmp_path / "b")
            moved.append(True)
        return found

    monkeypatch.setattr(disk_tool.Tally, "take", spy)
    _, size, entries, _ = measure(str(tree), MOST)
    assert moved
    assert size >= 2 * MB, "what was left to see after the move was seen"
    assert entries == 7


def test_requests_are_answered_in_turn_and_a_failure_is_an_answer(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * MB)
    good = json.dumps({"measure": [str(tmp_path), str(tmp_path / "no")], "most": 10, "seconds": 20})
    long = json.dumps({"measure": [str(tmp_path / ("x" * 300))], "most": 10, "seconds": 20})
    (found, none) = json.loads(disk_tool.answer(good))["ok"]
    assert (found[1:], none) == ([allocated(tmp_path / "f"), 1, True], [0, 0, 0, True])
    assert json.loads(disk_tool.answer(long)) == {"error": "File name too long"}


def test_the_helper_lives_on_when_a_walk_dies(tmp_path: Path) -> None:
    answers = tmp_path / "answers"
    with answers.open("w") as file:
        good = json.dumps({"measure": [str(tmp_path)], "most": 10, "seconds": 20})
        assert disk_tool.serve(["no json\n", good + "\n"], file) == 0
    first, second = map(json.loads, answers.read_text().splitlines())
    assert first == {"error": "the walk was ended"}
    assert second["ok"][0][2] == 1
    assert disk_tool.serve([], io.StringIO()) == 0


# ------------------------------------------------------------------ easing


def test_a_small_tree_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "d" / "e").mkdir(parents=True)
    assert disk_tool.ease(str(tmp_path)) is False
    assert (tmp_path / "d" / "e").is_dir()
    assert disk_tool.ease(str(tmp_path / "no")) is False


def test_a_small_tree_is_emptied_if_that_is_asked(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_text("f")
    for place in (tmp_path, tmp_path / "no"):
        assert json.loads(disk_tool.answer(json.dumps({"empty": str(place)}))) == {"ok": True}
    assert list(tmp_path.iterdir()) == []


def test_what_is_freed_takes_no_room_even_while_it_is_held(tmp_path: Path) -> None:
    """As overlayfs holds what is deleted in a layer below it."""
    tree = tmp_path / "layer"
    (tree / "d").mkdir(parents=True)
    other = tmp_path / "other"
    other.write_bytes(b"x" * MB)
    (tree / "d" / "link").symlink_to(other)
    os.mkfifo(tree / "pipe")
    files = [tree / "f", tree / "d" / "f"]
    for path in files:
        path.write_bytes(b"x" * MB)
    with files[0].open() as first, files[1].open() as second:
        assert json.loads(disk_tool.answer(json.dumps({"empty": str(tree)}))) == {"ok": True}
        assert [os.fstat(f.fileno()).st_blocks for f in (first, second)] == [0, 0]
    assert list(tree.iterdir()) == []
    assert other.stat().st_size == MB


def test_a_deep_tree_is_emptied_from_within(tmp_path: Path) -> None:
    top = tmp_path / "layer"
    top.mkdir()
    fd = os.open(top, os.O_RDONLY)
    for _ in range(2000):
        os.mkdir("d", dir_fd=fd)
        deeper = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    os.close(fd)
    (top / "f").touch()
    assert disk_tool.ease(str(top)) is True
    assert list(top.iterdir()) == []


def test_a_large_tree_is_emptied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_tool, "EASY_ENTRIES", 100)
    (tmp_path / "d").mkdir()
    for number in range(101):
        (tmp_path / "d" / f"f{number}").touch()
    request = json.dumps({"ease": str(tmp_path)})
    assert json.loads(disk_tool.answer(request)) == {"ok": True}
    assert list(tmp_path.iterdir()) == []
    assert json.loads(disk_tool.answer(request)) == {"ok": False}
