"""An artifact comes whole and verified, or not at all: cuts, changes, lies, cancellation."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from download_rig import DATA, Host, client, fetch, names
from hypothesis import given, settings
from hypothesis import strategies as st

from flashpods.client.download import PartFile, open_target
from flashpods.client.errors import ClientError, DownloadError

DIGEST = hashlib.sha256(DATA).hexdigest()


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


async def test_an_artifact_that_is_not_listed(tmp_path: Path) -> None:
    with pytest.raises(ClientError) as caught:
        await fetch(Host(), tmp_path, "other")
    assert caught.value.code == "artifact_not_found"
