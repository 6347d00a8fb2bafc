"""Hostile trees, trees of rsync's own user, and being killed; on the real adapter."""

import json
import os
import random
import stat
import sys
import textwrap
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from killing import kill_after
from namespace_lab import RSYNC_UID, UID, place, run_as_flashpods

from flashpods.adapters.files import tree_tool, trees
from flashpods.adapters.files.workspaces import FileWorkspaces
from flashpods.config_base import ConfigError
from flashpods.errors import Conflict, InsufficientStorage, NotFound, Unavailable
from flashpods.ports import TreeSize, TreeTooLarge

UPLOAD = "upload_abcdefghijkl"
PASSWD = Path("/etc/passwd")
GB = 2**30
LINKS = 400


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("transfers", "finalized", "work"):
        (tmp_path / name).mkdir()
    return tmp_path


def spaces_of(root: Path, **more: int) -> FileWorkspaces:
    return FileWorkspaces(root / "transfers", root / "finalized", root / "work", **more)


@pytest.fixture
def spaces(root: Path) -> FileWorkspaces:
    return spaces_of(root)


def hostile(tree: Path) -> None:
    """Make a tree of everything that finalize must disarm."""
    (tree / "bin").mkdir(parents=True)
    (tree / "bin" / "tool").write_text("#!/bin/sh")
    (tree / "bin" / "tool").chmod(0o6755)
    (tree / "shared").mkdir()
    (tree / "shared").chmod(0o3777)
    (tree / "closed").write_text("closed")
    (tree / "closed").chmod(0)
    (tree / "shut").mkdir()
    (tree / "shut" / "in").write_text("in")
    (tree / "shut").chmod(0)
    (tree / "munged").symlink_to("/rsyncd-munged/bin/tool")
    (tree / "munged_out").symlink_to("/rsyncd-munged//etc/passwd")
    (tree / "plain").symlink_to("bin/tool")
    (tree / "passwd").symlink_to("/etc/passwd")
    os.mkfifo(tree / "fifo")
    os.mknod(tree / "bin" / "s", stat.S_IFSOCK | 0o666)
    if os.geteuid() == 0:
        os.mknod(tree / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))


def passwd() -> os.stat_result:
    """Return what must never change: a file of the host that hostile links point to."""
    return PASSWD.stat()


def beneath(root: Path) -> list[str]:
    return sorted(p.name for p in root.glob("*/*"))


def modes(tree: Path) -> dict[str, int]:
    return {
        str(p.relative_to(tree)): stat.S_IMODE(p.lstat().st_mode)
        for p in tree.rglob("*")
        if not p.is_symlink()
    }


DISARMED = {
    "bin": 0o755,
    "bin/tool": 0o755,
    "shared": 0o777,
    "closed": 0o600,
    "shut": 0o700,
    "shut/in": 0o644,
}


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


def test_check_wants_one_file_system(root: Path) -> None:
    spaces_of(root).check()
    with pytest.raises(ConfigError, match="one mount of one file system"):
        FileWorkspaces(root / "transfers", Path("/dev/shm"), root / "work").check()
    with pytest.raises(ConfigError, match=r"paths\.work .*absent: No such file"):
        FileWorkspaces(root / "transfers", root / "finalized", root / "absent").check()


def test_a_wrong_verb_is_refused() -> None:
    with place():
        assert tree_tool.main(["explode"]) == 2


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
    moved = []
    for n in range(10):
        root = tmp_path / str(n)
        for name in ("transfers", "finalized", "work"):
            (root / name).mkdir(parents=True)
        tree = root / "transfers" / UPLOAD
        hostile(tree)
        for i in range(LINKS):
            (tree / f"l{i}").symlink_to(f"/rsyncd-munged/t{i}")
        _finalize_and_kill(root, chance.uniform(0.0, 0.04))
        moved.append((root / "finalized" / UPLOAD).exists())
        size = await spaces_of(root).finalize(UPLOAD, max_bytes=GB)
        assert size == TreeSize(size_bytes=17, file_count=LINKS + 7)
        final = root / "finalized" / UPLOAD
        assert modes(final) == DISARMED
        assert all(str((final / f"l{i}").readlink()) == f"t{i}" for i in range(LINKS))
        await spaces_of(root).discard_upload(UPLOAD)
        await spaces_of(root).finalized()
    assert not all(moved), "no kill came before the end: the test shows nothing"


# ------------------------------------------------------------------- rsync's own user

FOREIGN = textwrap.dedent(
    """
    import asyncio, json, os, sys, time
    from pathlib import Path
    from flashpods.adapters.files.workspaces import FileWorkspaces
    from flashpods.errors import NotFound
    from flashpods.ports import TreeTooLarge
    root = Path(sys.argv[1])
    spaces = FileWorkspaces(root / "transfers", root / "finalized", root / "work")
    told = {}
    def about(tree):
        return {str(p.relative_to(tree)): [p.lstat().st_uid, p.lstat().st_gid,
                oct(p.lstat().st_mode & 0o7777), os.readlink(p) if p.is_symlink() else None]
                for p in [tree, *tree.rglob("*")]}
    async def main():
        spaces.check()
        upload = "upload_abcdefghijkl"
        told["transferring"] = [name for name, _ in await spaces.transferring()]
        try:
            await spaces.finalize(upload, max_bytes=3)
        except TreeTooLarge:
            told["too_large"] = (root / "transfers" / upload).stat().st_uid
        try:
            await spaces.finalize("upload_absent-absent", max_bytes=3)
        except NotFound as e:
            told["absent"] = e.code
        size = await spaces.finalize(upload, max_bytes=10**6)
        told["size"] = [size.size_bytes, size.file_count]
        told["finalized"] = about(root / "finalized" / upload)
        path = await spaces.claim(upload, "1111111111111111")
        (path / "written").touch()
        await spaces.keep_as_base("1111111111111111", "proj", keep=3)
        told["base"] = [await spaces.base("proj"), about(root / "transfers/.bases/proj")]
        await spaces.claim(None, "2222222222222222")
        await spaces.keep_as_base("2222222222222222", "proj", keep=3)
        told["second base"] = about(root / "transfers/.bases/proj")
        await spaces.discard_upload("upload_mnopqrstuvwx")
        told["left"] = [name for name, _ in await spaces.transferring()]
        await spaces.claim(None, "3333333333333333")
    asyncio.run(main())
    print(json.dumps(told))
    """
)


@pytest.fixture
def lab() -> Iterator[Path]:
    """Yield a place laid out as on a host: the module is rsync's, the rest is flashpods'."""
    with place() as where:
        for name in ("transfers", "finalized", "work"):
            (where / name).mkdir(mode=0o750)
            os.chown(where / name, UID, UID)
        os.chown(where / "transfers", RSYNC_UID, UID)
        yield where


def give_to_rsync(tree: Path) -> None:
    for path in [tree, *tree.rglob("*")]:
        mode = path.lstat().st_mode
        os.chown(path, RSYNC_UID, RSYNC_UID, follow_symlinks=False)
        if not stat.S_ISLNK(mode):
            path.chmod(stat.S_IMODE(mode))  # chown(2) takes setuid away


def test_trees_of_the_rsync_user(lab: Path) -> None:
    for upload in (UPLOAD, "upload_mnopqrstuvwx"):
        hostile(lab / "transfers" / upload)
        give_to_rsync(lab / "transfers" / upload)
    (lab / "transfers" / UPLOAD / "closed").chmod(0)
    told = json.loads(run_as_flashpods(lab, FOREIGN, str(lab)))
    assert told["transferring"] == [UPLOAD, "upload_mnopqrstuvwx"]
    assert told["too_large"] == RSYNC_UID
    assert told["absent"] == "upload_not_found"
    assert told["size"] == [17, 7]
    finalized = told["finalized"]
    assert {tuple(owner) for *owner, _, _ in finalized.values()} == {(UID, UID)}
    assert {p: int(m, 8) for p, (_, _, m, t) in finalized.items() if t is None and p != "."} == (
        DISARMED
    )
    assert finalized["munged_out"][3] == "/etc/passwd"
    base, entries = told["base"]
    assert base == "/.bases/proj"
    assert {owner for owner, *_ in entries.values()} == {RSYNC_UID}
    assert entries["munged_out"][3] == "/rsyncd-munged//etc/passwd"
    assert "written" in entries
    assert list(told["second base"]) == ["."]
    assert told["left"] == []
    bases = (lab / "transfers" / ".bases").stat()
    assert (bases.st_uid, bases.st_gid, oct(bases.st_mode & 0o7777)) == (RSYNC_UID, UID, "0o770")


def test_without_subordinate_ids_check_says_so(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tree_tool, "SUBUID", tmp_path / "subuid")
    monkeypatch.setattr("flashpods.adapters.files.workspaces.ours", lambda path: False)
    with pytest.raises(ConfigError, match="subuid has no range for user"):
        spaces_of(root).check()


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (["sleep", "60"], Unavailable),
        (["false"], PermissionError),
        (["echo", '{"error": "too_large"}'], TreeTooLarge),
        (["echo", '{"error": "os", "errno": 11, "message": "busy"}'], Unavailable),
        (["echo", '{"error": "os", "errno": 28, "message": "full"}'], InsufficientStorage),
        (["echo", '{"error": "os", "errno": 2, "message": "gone"}'], NotFound),
    ],
    ids=["deadline", "no namespace", "too large", "busy", "full", "gone"],
)
async def test_what_goes_wrong_in_the_child(
    root: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], error: type[Exception]
) -> None:
    monkeypatch.setattr(tree_tool, "command", lambda *arguments: command)
    monkeypatch.setattr("flashpods.adapters.files.workspaces.ours", lambda path: False)
    spaces = FileWorkspaces(root / "transfers", root / "finalized", root / "work", seconds=0.2)
    with pytest.raises(error):
        await spaces.finalize(UPLOAD, max_bytes=GB)
