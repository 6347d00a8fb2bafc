"""Trees of rsync's own user: the child in a user namespace, and what goes wrong with it."""

import json
import os
import stat
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from namespace_lab import RSYNC_UID, UID, place, run_as_flashpods
from workspaces_rig import DISARMED, GB, UPLOAD, hostile, laid_out, spaces_of

from flashpods.adapters.files import tree_tool
from flashpods.adapters.files.workspaces import FileWorkspaces
from flashpods.config_base import ConfigError
from flashpods.errors import InsufficientStorage, NotFound, Unavailable
from flashpods.ports import TreeTooLarge


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return laid_out(tmp_path)


def test_check_wants_one_file_system(root: Path) -> None:
    spaces_of(root).check()
    with pytest.raises(ConfigError, match="one mount of one file system"):
        FileWorkspaces(root / "transfers", Path("/dev/shm"), root / "work").check()
    with pytest.raises(ConfigError, match=r"paths\.work .*absent: No such file"):
        FileWorkspaces(root / "transfers", root / "finalized", root / "absent").check()


def test_a_wrong_verb_is_refused() -> None:
    assert tree_tool.main(["explode"]) == 2


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
    seconds = 0.2 if command[0] == "sleep" else 60  # the others answer, if the machine lets them
    spaces = FileWorkspaces(root / "transfers", root / "finalized", root / "work", seconds=seconds)
    with pytest.raises(error):
        await spaces.finalize(UPLOAD, max_bytes=GB)
