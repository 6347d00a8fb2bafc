"""Trees far deeper than a path can name: each verb on them takes time for each level once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from flashpods.adapters.files import tree_copy, tree_tool, trees

LEVELS = 1500  # above the recursion limit; the kernel moves a deep directory slowly
MOST = 100_000
UPLOAD, COPY = "upload_abcdefghijkl", "upload_mnopqrstuvwx"
JOB = "1111111111111111"


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    for name in ("transfers", "finalized", "work"):
        (tmp_path / name).mkdir()
    tree = tmp_path / "transfers" / UPLOAD
    tree.mkdir()
    fd = os.open(tree, os.O_RDONLY)
    for _ in range(LEVELS):
        os.mkdir("d", dir_fd=fd)
        os.symlink("/rsyncd-munged//etc", "l", dir_fd=fd)
        with os.fdopen(os.open("f", os.O_WRONLY | os.O_CREAT, dir_fd=fd), "wb") as file:
            file.write(b"x")
        deeper = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    os.close(fd)
    yield tmp_path
    top = os.open(tmp_path, os.O_RDONLY)
    for name in ("transfers", "finalized", "work"):
        trees.remove(top, name)  # pytest's own would run out of stack
    os.close(top)


def opened(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count from now on the directories that a walk opens by name."""
    times, open_dir = [0], trees.open_dir

    def counted(parent: int, name: str) -> int:
        times[0] += 1
        return open_dir(parent, name)

    for module in (trees, tree_copy, tree_tool):
        monkeypatch.setattr(module, "open_dir", counted)
    return times


def targets(tree: Path) -> set[str]:
    top = os.open(tree, os.O_RDONLY)
    try:
        return {
            os.readlink(entry.name, dir_fd=fd)
            for fd, entries in trees.walk(top, MOST)
            for entry in entries
            if entry.is_symlink()
        }
    finally:
        os.close(top)


def test_a_deep_tree_goes_its_way(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transfers, finalized, work = (str(root / n) for n in ("transfers", "finalized", "work"))
    times = opened(monkeypatch)
    found = tree_tool.finalize(transfers, finalized, UPLOAD, MOST, MOST)
    assert found == (LEVELS, 2 * LEVELS)
    assert targets(root / "finalized" / UPLOAD) == {"/etc"}
    tree_copy.copy(finalized, UPLOAD, COPY, MOST)
    assert tree_tool.finalize(transfers, finalized, COPY, MOST, MOST) == found
    (root / "finalized" / COPY).rename(root / "work" / JOB)
    tree_tool.keep(work, JOB, transfers, "project", bases=1, most=MOST)
    assert targets(root / "transfers" / tree_tool.BASES / "project") == {"/rsyncd-munged//etc"}
    tree_tool.discard(finalized, UPLOAD)
    assert list((root / "finalized").iterdir()) == []
    assert times[0] < 20 * LEVELS, "from the top for each level it would be millions"


def test_what_moves_meanwhile_is_an_error_and_not_left_out(root: Path) -> None:
    tree = root / "transfers" / UPLOAD
    top = os.open(tree, os.O_RDONLY)

    def walked() -> None:
        for depth, _ in enumerate(trees.walk(top, MOST)):
            if depth == 0:
                (tree / "d").rename(tree / "moved")

    with pytest.raises(OSError, match=r"Stale file handle|No such file"):
        walked()
    os.close(top)
