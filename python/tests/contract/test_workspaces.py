"""One suite for both workspaces; hostile trees follow in ..._foreign, rsync's user in ..._users."""

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flashpods.adapters.files.workspaces import FileWorkspaces
from flashpods.errors import NotFound
from flashpods.ports import TreeSize, TreeTooLarge, Workspaces
from flashpods.testing.files import FakeWorkspaces

UPLOAD = "upload_abcdefghijkl"
OTHER = "upload_mnopqrstuvwx"
GB = 2**30


def real(root: Path) -> Workspaces:
    paths = [root / name for name in ("transfers", "finalized", "work")]
    for path in paths:
        path.mkdir()
    spaces = FileWorkspaces(*paths)
    spaces.check()
    return spaces


@pytest.fixture(params=[real, FakeWorkspaces], ids=["real", "fake"])
def spaces(request: pytest.FixtureRequest, tmp_path: Path) -> Workspaces:
    make: Callable[[Path], Workspaces] = request.param
    return make(tmp_path)


@pytest.fixture
def push(tmp_path: Path) -> Callable[..., Path]:
    def push(upload: str = UPLOAD) -> Path:
        tree = tmp_path / "transfers" / upload
        (tree / "src").mkdir(parents=True)
        (tree / "src" / "main.c").write_text("int main;")
        (tree / "link").symlink_to("src/main.c")
        return tree

    return push


Push = Callable[..., Path]


async def test_the_way_of_a_tree(spaces: Workspaces, push: Push, tmp_path: Path) -> None:
    push()
    ((name, at),) = await spaces.transferring()
    assert name == UPLOAD
    assert abs(datetime.now(UTC) - at) < timedelta(minutes=1)
    assert await spaces.finalize(UPLOAD, max_bytes=9) == TreeSize(size_bytes=9, file_count=2)
    assert await spaces.transferring() == []
    assert await spaces.finalized() == [UPLOAD]
    path = await spaces.claim(UPLOAD, "1111111111111111")
    assert path == tmp_path / "work" / "1111111111111111"
    assert (path / "link").read_text() == "int main;"
    assert await spaces.finalized() == []
    assert await spaces.claimed() == ["1111111111111111"]
    await spaces.discard("1111111111111111")
    assert await spaces.claimed() == []
    assert not path.exists()


async def test_repeated_calls(spaces: Workspaces, push: Push) -> None:
    push()
    first = await spaces.finalize(UPLOAD, max_bytes=GB)
    assert await spaces.finalize(UPLOAD, max_bytes=GB) == first
    path = await spaces.claim(UPLOAD, "1111111111111111")
    assert await spaces.claim(UPLOAD, "1111111111111111") == path
    assert await spaces.claim(UPLOAD, "2222222222222222") is None
    await spaces.discard("1111111111111111")
    await spaces.discard("1111111111111111")
    await spaces.discard_upload(UPLOAD)
    assert await spaces.claim(UPLOAD, "1111111111111111") is None


async def test_a_copy_is_a_tree_of_its_own(spaces: Workspaces, push: Push, tmp_path: Path) -> None:
    tree = push()
    (tree / "src" / "main.c").chmod(0o755)
    os.utime(tree / "src" / "main.c", ns=(10**18, 10**18))
    await spaces.finalize(UPLOAD, max_bytes=GB)
    await spaces.copy(UPLOAD, OTHER)
    await spaces.copy(UPLOAD, OTHER)  # repeated: replaced
    assert await spaces.finalized() == [UPLOAD, OTHER]
    first = await spaces.claim(UPLOAD, "1111111111111111")
    second = await spaces.claim(OTHER, "2222222222222222")
    assert first is not None
    assert second is not None
    assert (second / "link").readlink() == Path("src/main.c")
    (first / "src" / "main.c").write_text("changed")
    copied = second / "src" / "main.c"
    assert copied.read_text() == "int main;"
    assert (copied.stat().st_mode & 0o777, copied.stat().st_mtime_ns) == (0o755, 10**18)
    assert sorted(p.name for p in (tmp_path / "finalized").iterdir()) == []


async def test_a_copy_of_nothing(spaces: Workspaces, tmp_path: Path) -> None:
    for source in (UPLOAD, "../x"):
        with pytest.raises(NotFound) as raised:
            await spaces.copy(source, OTHER)
        assert raised.value.code == "upload_not_found"
    assert list((tmp_path / "finalized").iterdir()) == []


async def test_a_copy_that_fails_leaves_nothing(push: Push, tmp_path: Path) -> None:
    workspaces = real(tmp_path)
    push()
    await workspaces.finalize(UPLOAD, max_bytes=GB)
    small = FileWorkspaces(
        *(tmp_path / name for name in ("transfers", "finalized", "work")), most_entries=2
    )
    with pytest.raises(TreeTooLarge):
        await small.copy(UPLOAD, OTHER)
    assert [p.name for p in (tmp_path / "finalized").iterdir()] == [UPLOAD]


async def test_too_large_moves_nothing(spaces: Workspaces, push: Push) -> None:
    tree = push()
    with pytest.raises(TreeTooLarge):
        await spaces.finalize(UPLOAD, max_bytes=8)
    assert (tree / "src" / "main.c").exists()
    assert [name for name, _ in await spaces.transferring()] == [UPLOAD]
    assert await spaces.finalized() == []


@pytest.mark.parametrize("upload", [OTHER, "upload_/../../etc", "../work"])
async def test_no_tree(spaces: Workspaces, push: Push, upload: str) -> None:
    push()
    with pytest.raises(NotFound) as caught:
        await spaces.finalize(upload, max_bytes=GB)
    assert caught.value.code == "upload_not_found"
    assert await spaces.claim(upload, "1111111111111111") is None


async def test_no_upload_is_an_empty_workspace(spaces: Workspaces) -> None:
    path = await spaces.claim(None, "1111111111111111")
    assert path is not None
    assert not list(path.iterdir())
    (path / "made").touch()
    assert await spaces.claim(None, "1111111111111111") == path
    assert (path / "made").exists()


async def test_discard_upload_on_either_side(spaces: Workspaces, push: Push) -> None:
    push()
    push(OTHER)
    await spaces.finalize(OTHER, max_bytes=GB)
    await spaces.discard_upload(UPLOAD)
    await spaces.discard_upload(OTHER)
    assert (await spaces.transferring(), await spaces.finalized()) == ([], [])


async def test_finalized_before(spaces: Workspaces, push: Push, tmp_path: Path) -> None:
    push()
    (tmp_path / "finalized" / "lost+found").mkdir()
    (tmp_path / "work" / "lost+found").mkdir()
    assert await spaces.finalized() == await spaces.claimed() == []
    await spaces.finalize(UPLOAD, max_bytes=GB)
    now = datetime.now(UTC)
    assert await spaces.finalized(before=now + timedelta(minutes=1)) == [UPLOAD]
    assert await spaces.finalized(before=now - timedelta(minutes=1)) == []


async def test_old_bases_go(spaces: Workspaces, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    assert await spaces.drop_bases(before=now) == 0
    for n, project in enumerate(["p1", "p2"]):
        await spaces.claim(None, f"{n}" * 16)
        await spaces.keep_as_base(f"{n}" * 16, project, keep=9)
    assert await spaces.drop_bases(before=now - timedelta(minutes=1)) == 0
    assert await spaces.base("p1") == "/.bases/p1"
    assert await spaces.drop_bases(before=now + timedelta(hours=1)) == 2
    assert list((tmp_path / "transfers" / ".bases").iterdir()) == []


def next_tick(directory: Path) -> None:
    """Wait for the file system's clock, which stands still for some milliseconds, to go on."""
    probe = directory / "probe"
    probe.touch()
    began = probe.stat().st_ctime_ns
    while probe.stat().st_ctime_ns == began:
        probe.touch()


async def test_bases(spaces: Workspaces, push: Push, tmp_path: Path) -> None:
    assert await spaces.base("p1") is None
    await spaces.keep_as_base("f" * 16, "p1", keep=2)
    assert await spaces.base("p1") is None
    for n, project in enumerate(["p1", "p1", "p2", "p3"]):
        upload = f"upload_abcdefghijk{n}"
        (push(upload) / "which").write_text(str(n))
        await spaces.finalize(upload, max_bytes=GB)
        await spaces.claim(upload, f"{n}" * 16)
        await spaces.keep_as_base(f"{n}" * 16, project, keep=2)
        await spaces.keep_as_base(f"{n}" * 16, project, keep=2)
        assert await spaces.base(project) == f"/.bases/{project}"
        kept = tmp_path / "transfers" / ".bases" / project
        assert (kept / "which").read_text() == str(n)
        next_tick(tmp_path)  # else the next base may be as old as this one
    assert await spaces.claimed() == []
    assert await spaces.base("p1") is None
    assert await spaces.base("p2") == "/.bases/p2"
    assert await spaces.transferring() == []  # .bases is no upload
    assert sorted(p.name for p in (tmp_path / "transfers" / ".bases").iterdir()) == ["p2", "p3"]
    await spaces.claim(None, "9999999999999999")
    await spaces.keep_as_base("9999999999999999", "p9", keep=0)
    assert await spaces.base("p9") is None
    assert await spaces.base("p2") is None
