"""Artifacts come home whole, verified, and nowhere but where the caller said."""

import asyncio
import errno
import hashlib
import io
import os
import tarfile
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashpods.client.client import FlashpodsClient
from flashpods.client.config import ClientConfig
from flashpods.client.download import PartFile, open_target
from flashpods.client.errors import ClientError, DownloadError

DATA = bytes(range(256)) * 20
DIGEST = hashlib.sha256(DATA).hexdigest()


class Cut(httpx.AsyncByteStream):
    def __init__(self, data: bytes, clean: bool) -> None:
        self.data, self.clean = data, clean

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self.data), 1000):
            yield self.data[start : start + 1000]
        if not self.clean:
            raise httpx.ReadError("cut")


class Host:
    """One artifact. The n-th answer with a body is cut after cuts[n] bytes."""

    def __init__(
        self,
        data: bytes = DATA,
        *,
        name: str = "a.bin",
        kind: str = "file",
        sha256: str | None = "",
        etag: str | None = '"v1"',
        cuts: tuple[int, ...] | list[int] = (),
        clean: bool = False,
    ) -> None:
        self.data, self.name, self.kind, self.etag = data, name, kind, etag
        self.sha256 = hashlib.sha256(data).hexdigest() if sha256 == "" else sha256
        self.cuts, self.clean = list(cuts), clean
        self.size = len(data)
        self.ranges: list[str | None] = []
        self.paths: list[bytes] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.paths.append(request.url.raw_path)
        if request.url.path.endswith("/artifacts"):
            row = {"name": self.name, "type": self.kind, "size_bytes": self.size}
            row["sha256"] = None if self.kind == "directory" else self.sha256
            return httpx.Response(200, json={"artifacts": [row]})
        wanted = request.headers.get("Range")
        self.ranges.append(wanted)
        headers = {} if self.etag is None else {"ETag": self.etag}
        status, body = 200, self.data
        if wanted and request.headers.get("If-Range") == self.etag and self.kind == "file":
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            status, body = 206, self.data[start:]
            headers["Content-Range"] = f"bytes {start}-{len(self.data) - 1}/{len(self.data)}"
        if self.cuts:
            body = body[: self.cuts.pop(0)]
            return httpx.Response(status, headers=headers, stream=Cut(body, self.clean))
        return httpx.Response(status, headers=headers, stream=Cut(body, True))


async def nap(seconds: float) -> None:
    await asyncio.sleep(0)


def client(host: Callable[[httpx.Request], httpx.Response]) -> FlashpodsClient:
    config = ClientConfig(token="t")
    return FlashpodsClient(config, transport=httpx.MockTransport(host), sleep=nap)


async def fetch(host: Host, dest: Path | str, name: str = "a.bin", **kwargs: Any) -> Path:
    async with client(host) as c:
        return await c.download("j", name, dest, **kwargs)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


async def test_whole_into_a_directory(tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    path = await fetch(Host(), tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert path == tmp_path / "a.bin"
    assert path.read_bytes() == DATA
    assert names(tmp_path) == ["a.bin"]
    assert seen[-1] == (len(DATA), len(DATA))
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


async def test_to_a_file_and_to_a_new_directory(tmp_path: Path) -> None:
    assert await fetch(Host(), tmp_path / "b") == tmp_path / "b"
    assert await fetch(Host(), f"{tmp_path}/new/er/") == tmp_path / "new/er/a.bin"
    assert (tmp_path / "new/er/a.bin").read_bytes() == DATA


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("at", [0, 1, 999, 1000, 2500, len(DATA) - 1, len(DATA)])
async def test_a_cut_is_resumed_with_the_entity_tag(tmp_path: Path, at: int, clean: bool) -> None:
    host = Host(cuts=[at], clean=clean)
    assert (await fetch(host, tmp_path)).read_bytes() == DATA
    resumed = [] if at == len(DATA) else [f"bytes={at}-" if at else None]
    assert host.ranges == [None, *resumed]


@settings(max_examples=40, deadline=None)
@given(cuts=st.lists(st.integers(0, 3000), max_size=5), tag=st.sampled_from(['"v"', 'W/"v"', None]))
def test_any_cuts(tmp_path_factory: pytest.TempPathFactory, cuts: list[int], tag: str) -> None:
    directory = tmp_path_factory.mktemp("d")
    path = asyncio.run(fetch(Host(cuts=cuts, etag=tag), directory))
    assert path.read_bytes() == DATA


async def test_a_file_that_changed_starts_over(tmp_path: Path) -> None:
    host = Host(cuts=[2000])
    inner = host.__call__

    def handler(request: httpx.Request) -> httpx.Response:
        if request.headers.get("Range"):
            host.etag = '"v2"'
        return inner(request)

    async with client(handler) as c:
        path = await c.download("j", "a.bin", tmp_path)
    assert path.read_bytes() == DATA


async def test_a_range_that_was_not_asked_for_is_refused(tmp_path: Path) -> None:
    host = Host(cuts=[2000])

    def handler(request: httpx.Request) -> httpx.Response:
        if request.headers.get("Range"):
            headers = {"Content-Range": f"bytes 0-{len(DATA) - 1}/{len(DATA)}"}
            return httpx.Response(206, content=DATA, headers=headers)
        return host(request)

    async with client(handler) as c:
        with pytest.raises(DownloadError):
            await c.download("j", "a.bin", tmp_path)
    assert names(tmp_path) == []


async def test_a_wrong_digest_keeps_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_text("old")
    with pytest.raises(DownloadError) as caught:
        await fetch(Host(sha256="0" * 64), tmp_path)
    assert caught.value.code == "checksum_mismatch"
    assert names(tmp_path) == ["a.bin"]
    assert (tmp_path / "a.bin").read_text() == "old"


async def test_more_bytes_than_listed_are_refused(tmp_path: Path) -> None:
    host = Host()
    host.size = 100
    with pytest.raises(DownloadError) as caught:
        await fetch(host, tmp_path)
    assert caught.value.code == "download_failed"
    assert names(tmp_path) == []


async def test_a_host_that_goes_away_leaves_no_half_file(tmp_path: Path) -> None:
    with pytest.raises(ClientError) as caught:
        await fetch(Host(cuts=[500] + [0] * 20), tmp_path)
    assert caught.value.code == "host_unreachable"
    assert names(tmp_path) == []


async def test_a_cancelled_download_leaves_no_half_file(tmp_path: Path) -> None:
    begun = asyncio.Event()

    class Endless(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield DATA[:2000]
            begun.set()
            await asyncio.Event().wait()

    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/artifacts"):
            return Host()(request)
        return httpx.Response(200, stream=Endless())

    async with client(handler) as c:
        task = asyncio.ensure_future(c.download("j", "a.bin", tmp_path))
        async with asyncio.timeout(30):
            await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert names(tmp_path) == []


def test_a_thread_that_comes_late_touches_nothing(tmp_path: Path) -> None:
    """A cancelled call has closed the file, and its number may be another file's by then."""
    with closing(open_target(tmp_path, "x")) as target:
        part = PartFile(target)
        part.write(b"data")
        part.close()
        with (tmp_path / "another").open("wb") as another:
            another.write(b"keep")
            another.flush()
            part.write(b"late")
            part.restart()
            part.keep("x")
    assert names(tmp_path) == ["another"]
    assert (tmp_path / "another").read_bytes() == b"keep"


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "/etc/passwd", "a/b", "a\\b", "a\0b", " a", "a ", "a\n", "x" * 256],
)
async def test_hostile_names_are_refused_before_anything(tmp_path: Path, name: str) -> None:
    host = Host(name=name)
    with pytest.raises(DownloadError) as caught:
        await fetch(host, tmp_path, name)
    assert caught.value.code == "invalid_artifact_name"
    assert host.paths == []
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "name", [".hidden", "a..b", "%2e%2e%2fx", "ü 😀", "-rf", "a?b#c", "x" * 251]
)
async def test_odd_names_are_one_file(tmp_path: Path, name: str) -> None:
    host = Host(name=name)
    path = await fetch(host, tmp_path, name)
    assert names(tmp_path) == [name]
    assert path.parent == tmp_path
    assert host.paths[1].startswith(b"/jobs/j/artifacts/")
    assert host.paths[1].count(b"/") == 4
    assert b"?" not in host.paths[1]


async def test_a_symlink_at_the_target_is_replaced_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("keep")
    inside = tmp_path / "in"
    inside.mkdir()
    (inside / "a.bin").symlink_to(outside)
    await fetch(Host(), inside)
    assert outside.read_text() == "keep"
    assert not (inside / "a.bin").is_symlink()
    assert (inside / "a.bin").read_bytes() == DATA


async def test_a_directory_at_the_target_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a.bin").mkdir()
    with pytest.raises(DownloadError) as caught:
        await fetch(Host(), tmp_path)
    assert caught.value.code == "invalid_target"
    assert names(tmp_path) == ["a.bin"]


async def test_a_place_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DownloadError) as caught:
        await fetch(Host(), tmp_path / "no" / "file")
    assert caught.value.code == "invalid_target"


async def test_an_artifact_that_is_not_listed(tmp_path: Path) -> None:
    with pytest.raises(ClientError) as caught:
        await fetch(Host(), tmp_path, "other")
    assert caught.value.code == "artifact_not_found"


def tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    return info


TREE = tar(
    (member("site", tarfile.DIRTYPE), b""),
    (member("site/index.html"), b"hello"),
    (member("site/l", tarfile.SYMTYPE, "index.html"), b""),
)


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
        member("site/l", tarfile.SYMTYPE, ".."),
        member("site/l", tarfile.SYMTYPE, "../site"),
        member("site/l", tarfile.SYMTYPE, "l"),
        member("site/l", tarfile.SYMTYPE, "nowhere"),
        member("site", tarfile.SYMTYPE, ".."),
    ],
    ids=lambda m: f"{m.name}-{m.type.decode()}-{m.linkname}",
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


@pytest.mark.parametrize("dest", ["link", "file-link"])
async def test_a_symlink_where_the_file_is_to_go_leads_nowhere(tmp_path: Path, dest: str) -> None:
    """Also one to a directory, which would otherwise take the file in."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "inner").write_text("untouched")
    (tmp_path / "link").symlink_to(victim)
    (tmp_path / "file-link").symlink_to(victim / "inner")
    if dest == "link":
        with pytest.raises(DownloadError) as caught:
            await fetch(Host(), tmp_path / dest)
        assert caught.value.code == "invalid_target"
        assert "slash" in caught.value.message
        assert await fetch(Host(), f"{tmp_path}/link/") == tmp_path / "link" / "a.bin"  # as said
        (victim / "a.bin").unlink()
    else:
        await fetch(Host(), tmp_path / dest)
        assert not (tmp_path / dest).is_symlink()
    assert [path.name for path in victim.iterdir()] == ["inner"]
    assert (victim / "inner").read_text() == "untouched"


@pytest.mark.parametrize("dest", ["f", "sub", "sub/f", "sub/", "new/deep/", "", "{}/sub/f", "{}"])
async def test_within_a_directory(tmp_path: Path, dest: str) -> None:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    path = await fetch(Host(), dest.format(root) or f"{root}/", within=root)
    assert path.read_bytes() == DATA
    assert path.resolve().is_relative_to(root.resolve())
    assert path.name == ("f" if dest.endswith("f") else "a.bin")


@pytest.mark.parametrize(
    "dest", ["out", "out/", "out/f", "sub/out/", "../f", "sub/../../f", "/tmp/f", "file/f", "no/f"]
)
async def test_nothing_leaves_the_directory(tmp_path: Path, dest: str) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "sub").mkdir(parents=True)
    outside.mkdir()
    (root / "out").symlink_to(outside)
    (root / "sub/out").symlink_to(outside)
    (root / "file").write_text("x")
    if dest == "out":  # the link itself is replaced
        assert (await fetch(Host(), dest, within=root)).read_bytes() == DATA
        assert not (root / "out").is_symlink()
    else:
        with pytest.raises(DownloadError) as caught:
            await fetch(Host(), dest, within=root)
        assert caught.value.code == "invalid_target"
    assert list(outside.iterdir()) == []
    assert not (tmp_path / "f").exists()
    assert not list(root.rglob("*.part"))
