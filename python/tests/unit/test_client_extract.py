"""A directory comes as tar: whole, or unpacked inside of its target and nowhere else."""

import asyncio
import errno
import os
import tarfile
from pathlib import Path

import pytest
from download_rig import TREE, Host, fetch, member, names, tar
from hypothesis import given, settings
from hypothesis import strategies as st

from flashpods.client.errors import DownloadError


async def test_a_directory_comes_as_tar_and_starts_over_after_a_cut(tmp_path: Path) -> None:
    host = Host(TREE, name="site", kind="directory", cuts=[600, 1500])
    path = await fetch(host, tmp_path, "site")
    assert path == tmp_path / "site.tar"
    assert path.read_bytes() == TREE
    assert host.ranges == [None, None, None]


async def test_a_tar_without_its_end_is_refused(tmp_path: Path) -> None:
    host = Host(TREE[:1600], name="site", kind="directory")
    with pytest.raises(DownloadError) as caught:
        await fetch(host, tmp_path, "site")
    assert caught.value.code == "download_failed"
    assert names(tmp_path) == []


async def test_extract(tmp_path: Path) -> None:
    host = Host(TREE, name="site", kind="directory")
    path = await fetch(host, tmp_path, "site", extract=True)
    assert path == tmp_path / "site"
    assert names(tmp_path) == ["site"]
    assert (path / "index.html").read_text() == "hello"
    assert (path / "l").readlink() == Path("index.html")


async def test_extract_of_an_archive_without_the_top_level(tmp_path: Path) -> None:
    data = tar((member("./x"), b"1"), (member("d/y"), b"2"))
    await fetch(Host(data, name="site", kind="directory"), tmp_path, "site", extract=True)
    assert names(tmp_path / "site") == ["d", "x"]


@pytest.mark.parametrize(
    "bad",
    [
        member("../escape"),
        member("/../escape"),
        member("site/../../escape"),
        member("site/l", tarfile.SYMTYPE, "../../escape"),
        member("site/l", tarfile.SYMTYPE, "/etc/passwd"),
        member("site/h", tarfile.LNKTYPE, "../../etc/passwd"),
        member("site/h", tarfile.LNKTYPE, "site"),
        member("site/dev", tarfile.CHRTYPE),
        member("site/disk", tarfile.BLKTYPE),
        member("site/fifo", tarfile.FIFOTYPE),
        member("/site/absolute"),
        member("."),
        member("site/" + "d/" * 2000 + "x"),
        member("site/l", tarfile.SYMTYPE, ".."),
        member("site/l", tarfile.SYMTYPE, "../site"),
        member("site/l", tarfile.SYMTYPE, "l"),
        member("site/l", tarfile.SYMTYPE, "nowhere"),
        member("site", tarfile.SYMTYPE, ".."),
    ],
    ids=lambda m: f"{m.name[:20]}-{m.type.decode()}-{m.linkname}",
)
async def test_hostile_archives_write_nothing(tmp_path: Path, bad: tarfile.TarInfo) -> None:
    inside = tmp_path / "in"
    inside.mkdir()
    host = Host(tar((bad, b"")), name="site", kind="directory")
    with pytest.raises(DownloadError) as caught:
        await fetch(host, inside, "site", extract=True)
    assert caught.value.code == "unsafe_archive"
    assert names(inside) == []
    assert names(tmp_path) == ["in"]


DIRECTORY = (member("site", tarfile.DIRTYPE), b"")


@pytest.mark.parametrize(
    "entries",
    [
        # A write through a link that an earlier member made, of a file and of a directory.
        ((member("site/l", tarfile.SYMTYPE, "../.."), b""), (member("site/l/escape"), b"x")),
        (
            (member("site/l", tarfile.SYMTYPE, "../.."), b""),
            (member("site/l/escape", tarfile.DIRTYPE), b""),
        ),
        # Each link looks harmless; together they lead out.
        (
            (member("site/d/e/f"), b"x"),
            (member("site/up", tarfile.SYMTYPE, "d/e"), b""),
            (member("site/out", tarfile.SYMTYPE, "up/../../.."), b""),
        ),
        ((member("site/a"), b"1"), (member("site/a"), b"2")),
        ((member("site/a"), b"1"), (member("site/a/b"), b"2")),
        ((member("site/a"), b"1"), (member("site/a", tarfile.SYMTYPE, "/etc"), b"")),
        ((member("site/a", tarfile.SYMTYPE, "b"), b""), (member("site/a"), b"1")),
        tuple(
            (member(f"site/l{n}", tarfile.SYMTYPE, f"l{n + 1}" if n < 99 else "."), b"")
            for n in range(100)
        ),
    ],
)
async def test_members_that_work_together_write_nothing(
    tmp_path: Path, entries: tuple[tuple[tarfile.TarInfo, bytes], ...]
) -> None:
    inside = tmp_path / "a" / "in"
    inside.mkdir(parents=True)
    host = Host(tar(DIRECTORY, *entries), name="site", kind="directory")
    with pytest.raises(DownloadError) as caught:
        await fetch(host, inside, "site", extract=True)
    assert caught.value.code == "unsafe_archive"
    assert names(inside) == []
    assert names(tmp_path) == ["a"]
    assert names(tmp_path / "a") == ["in"]


async def test_links_inside_are_kept_whatever_the_order(tmp_path: Path) -> None:
    data = tar(
        DIRECTORY,
        (member("site/first", tarfile.SYMTYPE, "d/../d/x"), b""),
        (member("site/d/x"), b"1"),
        (member("site/d/up", tarfile.SYMTYPE, "../first"), b""),
    )
    path = await fetch(Host(data, name="site", kind="directory"), tmp_path, "site", extract=True)
    assert (path / "d" / "up").read_text() == "1"
    assert (path / "first").readlink() == Path("d/../d/x")


async def test_no_dangerous_mode_no_owner(tmp_path: Path) -> None:
    script, data = member("site/run"), member("site/data")
    script.mode, data.mode = 0o6777, 0o067
    script.uid = script.gid = data.uid = 12345
    script.mtime = 1_000_000_000
    top = member("site", tarfile.DIRTYPE)
    top.mode = 0o7777
    old = os.umask(0o022)
    try:
        host = Host(tar((top, b""), (script, b"#!"), (data, b"")), name="site", kind="directory")
        path = await fetch(host, tmp_path, "site", extract=True)
    finally:
        os.umask(old)
    modes = {p.name: p.stat().st_mode & 0o7777 for p in (path, path / "run", path / "data")}
    assert modes == {"site": 0o755, "run": 0o755, "data": 0o644}
    assert {(path / n).stat().st_uid for n in ("run", "data", ".")} == {os.getuid()}
    assert (path / "run").stat().st_mtime == 1_000_000_000


async def test_a_file_in_place_of_the_directory_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "site").write_text("mine")
    host = Host(tar((member("site"), b"theirs")), name="site", kind="directory")
    with pytest.raises(DownloadError) as caught:
        await fetch(host, tmp_path, "site", extract=True)
    assert caught.value.code == "invalid_target"
    assert (tmp_path / "site").read_text() == "mine"


async def test_endless_headers_are_refused(tmp_path: Path) -> None:
    info = member("././@LongLink", tarfile.GNUTYPE_LONGNAME)
    data = info.tobuf(tarfile.GNU_FORMAT) * 3000 + b"\0" * 1024
    with pytest.raises(DownloadError) as caught:
        await fetch(Host(data, name="site", kind="directory"), tmp_path, "site", extract=True)
    assert caught.value.code == "unsafe_archive"
    assert names(tmp_path) == []


async def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("flashpods.client.extract.shutil.copyfileobj", full)
    with pytest.raises(DownloadError) as caught:
        await fetch(Host(TREE, name="site", kind="directory"), tmp_path, "site", extract=True)
    assert caught.value.code == "download_disk_full"
    assert names(tmp_path) == []


async def test_too_many_members_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flashpods.client.extract.MAX_MEMBERS", 2)
    with pytest.raises(DownloadError) as caught:
        await fetch(Host(TREE, name="site", kind="directory"), tmp_path, "site", extract=True)
    assert caught.value.code == "unsafe_archive"
    assert names(tmp_path) == []


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(TREE) - 1), st.integers(0, 255)), max_size=8))
def test_damaged_archives_are_unpacked_inside_or_refused(
    tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[int, int]]
) -> None:
    data = bytearray(TREE)
    for at, value in damage:
        data[at] = value
    for start in range(0, 3072, 512):  # a checksum that holds lets the damage through
        block = data[start : start + 512]
        if any(block[:100]):
            block[148:156] = b" " * 8
            data[start + 148 : start + 156] = b"%06o\0 " % sum(block)
    outer = tmp_path_factory.mktemp("damaged")
    inside = outer / "in"
    inside.mkdir()
    host = Host(bytes(data), name="site", kind="directory")
    try:
        asyncio.run(fetch(host, inside, "site", extract=True))
    except DownloadError:
        assert names(inside) == []
    else:
        assert names(inside) == ["site"]
        assert all(not path.is_symlink() or path.exists() for path in inside.rglob("*"))
    assert names(outer) == ["in"]


async def test_a_sparse_bomb_is_refused(tmp_path: Path) -> None:
    info = member("site/big")
    info.size = 1 << 50
    data = info.tobuf(tarfile.GNU_FORMAT) + b"\0" * 1024
    host = Host(data, name="site", kind="directory")
    with pytest.raises(DownloadError) as caught:
        await fetch(host, tmp_path, "site", extract=True)
    assert caught.value.code == "unsafe_archive"
    assert names(tmp_path) == []


async def test_extract_over_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "site").write_text("mine")
    host = Host(TREE, name="site", kind="directory")
    with pytest.raises(DownloadError) as caught:
        await fetch(host, tmp_path, "site", extract=True)
    assert caught.value.code == "invalid_target"
    assert (tmp_path / "site").read_text() == "mine"
    assert names(tmp_path) == ["site"]
