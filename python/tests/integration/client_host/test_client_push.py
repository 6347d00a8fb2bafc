"""The client's push over real sockets, with the real rsync both ways."""

import asyncio
import json
import os
import shutil
from pathlib import Path

import pytest
from client_host_rig import UPLOAD, HttpHost, RsyncHost, client

from flashpods.client.client import FlashpodsClient
from flashpods.client.config import ClientConfig
from flashpods.client.errors import UploadError


async def test_push(host: HttpHost, rsyncd: RsyncHost, source: Path) -> None:
    seen: list[float] = []
    async with client(host) as c:
        upload = await c.push(source, progress=lambda p: seen.append(p.fraction))
    tree = rsyncd.tree / UPLOAD
    assert upload.state == "finalized"
    assert upload.file_count == 52
    assert upload.sent_bytes is not None
    assert upload.sent_bytes > 1_000_000
    assert (tree / "f7").read_bytes() == (source / "f7").read_bytes()
    assert (tree / "run.sh").stat().st_mode & 0o7777 == 0o755
    assert (tree / "link").readlink() == Path("/rsyncd-munged/f1")
    assert (tree / "-n\n$(x) *").read_text() == "odd"
    assert not (tree / "sub/node_modules").exists()
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


async def test_a_second_push_sends_only_what_changed(
    host: HttpHost, rsyncd: RsyncHost, source: Path
) -> None:
    async with client(host) as c:
        first = await c.push(source, project="p")
        bases = rsyncd.tree / ".bases"
        bases.mkdir()
        (rsyncd.tree / UPLOAD).rename(bases / "p")
        host.base, host.finalized = "/.bases/p", False
        (source / "f3").write_bytes(b"changed")
        second = await c.push(source, project="p")
    assert json.loads(host.requests[0][2]) == {"project": "p"}
    assert first.sent_bytes is not None
    assert second.sent_bytes is not None
    assert second.sent_bytes < first.sent_bytes / 100
    assert (rsyncd.tree / UPLOAD / "f3").read_bytes() == b"changed"
    assert (rsyncd.tree / UPLOAD / "f9").read_bytes() == (source / "f9").read_bytes()


async def test_gitignore_by_argument_and_by_configuration(
    host: HttpHost, rsyncd: RsyncHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "a.log").write_text("x")
    (tree / ".gitignore").write_text("*.log\n")
    config = ClientConfig(token="t", api_url=f"http://127.0.0.1:{host.port}", gitignore=True)
    async with FlashpodsClient(config) as c:
        await c.push(tree)  # in no repository: nothing is ignored
        assert (rsyncd.tree / UPLOAD / "a.log").exists()
        with pytest.raises(UploadError) as caught:
            await c.push(tree, gitignore=True)
        assert caught.value.code == "not_a_repository"
        assert host.lines("DELETE") == []  # and no upload was reserved for it
        shutil.rmtree(rsyncd.tree / UPLOAD)
        git = await asyncio.create_subprocess_exec("git", "init", "-q", tree)
        assert await git.wait() == 0
        host.finalized = False
        await c.push(tree)
        assert sorted(p.name for p in (rsyncd.tree / UPLOAD).iterdir()) == [".gitignore"]
        host.finalized = False
        await c.push(tree, gitignore=False)
        assert (rsyncd.tree / UPLOAD / "a.log").exists()


async def test_a_transfer_that_is_cut_goes_on_in_the_same_upload(
    host: HttpHost, rsyncd: RsyncHost, source: Path
) -> None:
    rsyncd.cuts = [0, 400_000]
    async with client(host) as c:
        upload = await c.push(source)
    assert rsyncd.connections == 3
    assert upload.file_count == 52
    assert len([line for line in host.lines("POST") if line == "POST /uploads"]) == 1
    for number in range(50):
        name = f"f{number}"
        assert (rsyncd.tree / UPLOAD / name).read_bytes() == (source / name).read_bytes()


async def test_network_trouble_is_retried_three_times(
    host: HttpHost, rsyncd: RsyncHost, source: Path
) -> None:
    rsyncd.cuts = [0] * 10
    async with client(host) as c:
        with pytest.raises(UploadError) as caught:
            await c.push(source)
    assert caught.value.code == "upload_failed"
    assert rsyncd.connections == 4
    assert host.lines("DELETE") == [f"DELETE /uploads/{UPLOAD}"]


async def test_what_rsync_refuses_is_not_retried(
    host: HttpHost, rsyncd: RsyncHost, source: Path
) -> None:
    host.rsync_url = host.rsync_url.replace("/uploads", "/nothing")
    async with client(host) as c:
        with pytest.raises(UploadError) as caught:
            await c.push(source)
    assert caught.value.code == "upload_failed"
    assert "Unknown module 'nothing'" in caught.value.message
    assert rsyncd.connections == 1


async def test_finalize_waits_for_the_daemons_last_act(host: HttpHost, source: Path) -> None:
    host.busy_finalizes = 3
    async with client(host) as c:
        assert (await c.push(source)).state == "finalized"
    assert len([line for line in host.lines("POST") if "finalize" in line]) == 4


async def test_a_lost_answer_of_finalize_is_success(host: HttpHost, source: Path) -> None:
    host.lost_finalizes = 1
    async with client(host) as c:
        assert (await c.push(source)).state == "finalized"


def fake_rsync(directory: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    tools = directory / "tools"
    tools.mkdir()
    (tools / "rsync").write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && exec {shutil.which("rsync")} --version\n{script}\n'
    )
    (tools / "rsync").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")


async def test_a_full_host(
    host: HttpHost, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = 'rsync: [receiver] write failed on "/x" (in uploads): No space left on device (28)'
    fake_rsync(tmp_path, monkeypatch, f"echo '{line}' >&2; exit 12")
    async with client(host) as c:
        with pytest.raises(UploadError) as caught:
            await c.push(source)
    assert caught.value.code == "upload_disk_full"
    assert host.lines("DELETE") == [f"DELETE /uploads/{UPLOAD}"]


async def test_the_child_gets_no_token(
    host: HttpHost, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLASHPODS_API_TOKEN", "t")
    fake_rsync(tmp_path, monkeypatch, f'env > {tmp_path}/env; echo "$@" >> {tmp_path}/env')
    async with client(host) as c:
        await c.push(source)
    assert "FLASHPODS" not in (tmp_path / "env").read_text()


async def test_a_cancelled_push_leaves_no_process(
    host: HttpHost, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = tmp_path / "pid"
    os.mkfifo(pipe)
    # It ignores SIGTERM, so that only SIGKILL ends it.
    fake_rsync(tmp_path, monkeypatch, f"trap '' TERM; echo $$ > '{pipe}'; exec sleep 600")
    monkeypatch.setattr("flashpods.client.rsync.STOP_SECONDS", 0.2)
    async with client(host) as c:
        task = asyncio.ensure_future(c.push(source))
        pid = int(await asyncio.to_thread(pipe.read_text))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert host.lines("DELETE") == [f"DELETE /uploads/{UPLOAD}"]
