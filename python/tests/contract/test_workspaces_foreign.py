"""Hostile trees, trees left half done, and being killed; on the real adapter."""

import os
import random
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from killing import kill_after
from workspaces_rig import DISARMED, GB, UPLOAD, hostile, laid_out, modes, passwd, spaces_of

from flashpods.adapters.files import tree_tool, trees
from flashpods.adapters.files.workspaces import FileWorkspaces
from flashpods.errors import Conflict, Unavailable
from flashpods.ports import TreeSize, TreeTooLarge

LINKS = 400
ROUNDS = 10


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return laid_out(tmp_path)


@pytest.fixture
def spaces(root: Path) -> FileWorkspaces:
    return spaces_of(root)


def beneath(root: Path) -> list[str]:
    return sorted(p.name for p in root.glob("*/*"))


async def test_finalize_disarms(spaces: FileWorkspaces, root: Path) -> None:
    hostile(root / "transfers" / UPLOAD)
    os.utime(root / "transfers" / UPLOAD / "munged", ns=(1, 2), follow_symlinks=False)
    before = passwd()
    size = await spaces.finalize(UPLOAD, max_bytes=GB)
    assert size == TreeSize(size_bytes=17, file_count=7)
    tree = root / "finalized" / UPLOAD
    assert modes(tree) == DISARMED
    assert str((tree / "munged").readlink()) == "bin/tool"
    assert (tree / "munged").lstat().st_mtime_ns == 2
    assert str((tree / "munged_out").readlink()) == "/etc/passwd"
    assert str((tree / "plain").readlink()) == "bin/tool"
    assert passwd().st_ctime_ns == before.st_ctime_ns
    assert await spaces.finalize(UPLOAD, max_bytes=GB) == size
    assert [p.name for p in (root / "finalized").iterdir()] == [UPLOAD]


async def test_a_tree_with_a_writer_is_not_finalized(spaces: FileWorkspaces, root: Path) -> None:
    tree = root / "transfers" / UPLOAD
    tree.mkdir(parents=True, exist_ok=True)
    (tree / "quiet").write_text("q")
    with (tree / "loud").open("w") as writer:
        with pytest.raises(Conflict) as refused:
            await spaces.finalize(UPLOAD, max_bytes=GB)
        assert refused.value.code == "upload_in_progress"
        assert await spaces.finalized() == []
        writer.write("late")
    size = await spaces.finalize(UPLOAD, max_bytes=GB)
    assert (size.size_bytes, size.file_count) == (5, 2)


async def test_a_base_is_munged_again(spaces: FileWorkspaces, root: Path) -> None:
    (root / "transfers" / UPLOAD).mkdir()
    (root / "transfers" / UPLOAD / "out").symlink_to("/rsyncd-munged//etc")
    await spaces.finalize(UPLOAD, max_bytes=GB)
    await spaces.claim(UPLOAD, "1111111111111111")
    await spaces.keep_as_base("1111111111111111", "p", keep=1)
    # As text: pathlib drops the empty part between the slashes.
    kept = os.open(root / "transfers" / ".bases" / "p", os.O_RDONLY)
    assert os.readlink("out", dir_fd=kept) == "/rsyncd-munged//etc"
    os.close(kept)


async def test_too_many_entries(root: Path) -> None:
    (root / "transfers" / UPLOAD).mkdir()
    for n in range(11):
        (root / "transfers" / UPLOAD / str(n)).touch()
    with pytest.raises(TreeTooLarge):
        await spaces_of(root, most_entries=10).finalize(UPLOAD, max_bytes=GB)
    size = await spaces_of(root, most_entries=11).finalize(UPLOAD, max_bytes=GB)
    assert size.file_count == 11


async def test_a_sparse_file_counts_by_its_size(spaces: FileWorkspaces, root: Path) -> None:
    (root / "transfers" / UPLOAD).mkdir()
    with (root / "transfers" / UPLOAD / "huge").open("wb") as file:
        file.truncate(2**41)
    with pytest.raises(TreeTooLarge):
        await spaces.finalize(UPLOAD, max_bytes=2 * GB)


@pytest.mark.parametrize("kind", ["file", "link", "fifo"])
async def test_what_is_no_tree_is_not_finalized_but_discarded(
    spaces: FileWorkspaces, root: Path, kind: str
) -> None:
    path = root / "transfers" / UPLOAD
    match kind:
        case "file":
            path.touch()
        case "link":
            path.symlink_to("/etc")
        case _:
            os.mkfifo(path)
    with pytest.raises(Exception, match="has no tree"):
        await spaces.finalize(UPLOAD, max_bytes=GB)
    assert [name for name, _ in await spaces.transferring()] == [UPLOAD]
    await spaces.discard_upload(UPLOAD)
    assert not list((root / "transfers").iterdir())
    assert passwd()


async def test_names_that_are_no_ids_are_ignored(spaces: FileWorkspaces, root: Path) -> None:
    for name in (".bases", "short", "upload_x", "upload_abcdefghijk!", ".upload_abcdefghijkl"):
        (root / "transfers" / name).mkdir()
        (root / "finalized" / name).mkdir()
    (root / "work" / ".link-x").symlink_to("x")
    assert await spaces.transferring() == []
    assert await spaces.finalized() == []
    assert await spaces.claimed() == []


async def test_deep_trees_are_discarded(spaces: FileWorkspaces, root: Path) -> None:
    path = await spaces.claim(None, "1111111111111111")
    assert path is not None
    fd = os.open(path, os.O_RDONLY)
    for n in range(3000):
        os.mkdir("d", dir_fd=fd)
        os.symlink("/etc", f"l{n}", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    await spaces.discard("1111111111111111")
    assert not list((root / "work").iterdir())
    assert passwd()


async def test_a_half_deleted_tree_is_found_and_deleted(spaces: FileWorkspaces, root: Path) -> None:
    for parent, name in (
        ("transfers", UPLOAD),
        ("finalized", UPLOAD),
        ("work", "1111111111111111"),
    ):
        (root / parent / f".rm-{name}" / "left").mkdir(parents=True)
    assert [name for name, _ in await spaces.transferring()] == [UPLOAD]
    assert (await spaces.finalized(), await spaces.claimed()) == ([UPLOAD], ["1111111111111111"])
    await spaces.discard_upload(UPLOAD)
    await spaces.discard("1111111111111111")
    assert beneath(root) == []


async def test_spares_of_a_killed_finalize_go_when_they_are_old(
    spaces: FileWorkspaces, root: Path
) -> None:
    spares = [root / "finalized" / f".link-{UPLOAD}", root / "work" / f".link-{'1' * 16}"]
    foreign = root / "work" / ".link-to-something"
    for path in (*spares, foreign):
        path.symlink_to("/etc/passwd")
    now = datetime.now(UTC)
    assert await spaces.sweep_spares(before=now - timedelta(minutes=1)) == 0
    assert all(path.is_symlink() for path in spares)
    assert await spaces.sweep_spares(before=now + timedelta(minutes=1)) == 2
    assert not any(path.is_symlink() for path in spares)
    assert foreign.is_symlink()


async def test_an_upload_that_was_reopened_replaces_its_former_tree(
    spaces: FileWorkspaces, root: Path
) -> None:
    for content in ("old", "new"):
        (root / "transfers" / UPLOAD).mkdir()
        (root / "transfers" / UPLOAD / content).touch()
        await spaces.finalize(UPLOAD, max_bytes=GB)
    assert [p.name for p in (root / "finalized" / UPLOAD).iterdir()] == ["new"]


async def test_a_worker_left_behind_is_waited_for(
    spaces: FileWorkspaces, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "transfers" / UPLOAD).mkdir()
    fd = os.open(root / "transfers" / UPLOAD, os.O_RDONLY)
    trees.lock(fd, trees.go_on)
    monkeypatch.setattr(trees, "LOCK_SECONDS", 0.05)
    with pytest.raises(Unavailable):
        await spaces.finalize(UPLOAD, max_bytes=GB)
    os.close(fd)
    await spaces.finalize(UPLOAD, max_bytes=GB)


FINALIZE = (
    "import sys; sys.path.append(sys.argv.pop(1)); "
    "import flashpods.adapters.files.tree_tool as t; "
    "print('ready', flush=True); sys.stdin.readline(); t.main(sys.argv[1:])"
)


def _finalize_and_kill(root: Path, seconds: float) -> None:
    packages = Path(tree_tool.__file__).parents[3]
    where = (root / "transfers", root / "finalized", UPLOAD)
    python = (sys.executable, "-I", "-S", "-c", FINALIZE)
    kill_after([*python, packages, "finalize", *where, str(GB), "10000"], seconds)


async def test_killed_at_any_moment_finalize_ends_the_same(tmp_path: Path) -> None:
    chance = random.Random(11)
    moved: list[bool] = []
    # More of them, and sooner, where all came too late: on a fast machine, or one that stopped us.
    while len(moved) < ROUNDS or (all(moved) and len(moved) < 6 * ROUNDS):
        latest = 0.04 / 2 ** (len(moved) // ROUNDS)
        root = laid_out(tmp_path / str(len(moved)))
        tree = root / "transfers" / UPLOAD
        hostile(tree)
        for i in range(LINKS):
            (tree / f"l{i}").symlink_to(f"/rsyncd-munged/t{i}")
        _finalize_and_kill(root, chance.uniform(0.0, latest))
        moved.append((root / "finalized" / UPLOAD).exists())
        size = await spaces_of(root).finalize(UPLOAD, max_bytes=GB)
        assert size == TreeSize(size_bytes=17, file_count=LINKS + 7)
        final = root / "finalized" / UPLOAD
        assert modes(final) == DISARMED
        assert all(str((final / f"l{i}").readlink()) == f"t{i}" for i in range(LINKS))
        await spaces_of(root).discard_upload(UPLOAD)
        await spaces_of(root).finalized()
    assert not all(moved), "no kill came before the end: the test shows nothing"
