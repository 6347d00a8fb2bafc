"""The client and the CLI over real sockets: a small HTTP server, and the real rsync both ways."""

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from flashpods.client.client import FlashpodsClient
from flashpods.client.config import ClientConfig
from flashpods.client.errors import ClientError, UploadError
from flashpods_dev.rsyncd import ACCEPTED, REFUSED_AGAIN

LOG = "".join(f"[10:00:00.{n:03}] line {n} {'é' * (n % 50)}\n" for n in range(400)).encode()
DATA = os.urandom(700_000)
UPLOAD = "upload_AbCdEf012345"


class HttpHost:
    """Speaks just enough HTTP/1.1; every answer closes its connection.

    ``cuts`` are the bytes after which the next answers are broken off by a reset.
    """

    def __init__(self, tree: Path) -> None:
        self.tree = tree
        self.rsync_url = ""
        self.base: str | None = None
        self.cuts: list[int] = []
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.busy_finalizes = 0
        self.lost_finalizes = 0
        self.finalized = False
        self.job: dict[str, Any] = {
            "id": "j1",
            "type": "worker",
            "status": "completed",
            "exit_code": 7,
            "warnings": [],
        }
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            line = head[0].removesuffix(" HTTP/1.1")
            self.requests.append((line, headers, body))
            status, extra, content = self._answer(line, headers)
            cut = self.cuts.pop(0) if self.cuts and self._may_cut(line) else None
            if status:
                writer.write(
                    f"HTTP/1.1 {status} X\r\nContent-Length: {len(content)}\r\n{extra}"
                    "Connection: close\r\n\r\n".encode()
                )
                writer.write(content if cut is None else content[:cut])
                await writer.drain()
            if cut is not None or not status:
                raw = writer.get_extra_info("socket")
                # SO_LINGER 0: the close is a reset, not an end.
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.close()

    @staticmethod
    def _may_cut(line: str) -> bool:
        return "follow=true" in line or "/artifacts/" in line

    def _answer(self, line: str, headers: dict[str, str]) -> tuple[int, str, bytes]:
        method, path = line.split(" ")
        if path.startswith("/uploads"):
            return self._upload(method, path)
        if method == "POST":
            return 201, "", b'{"job_id": "j1", "status": "pending", "created": true}'
        return self._job(path, headers)

    def _job(self, path: str, headers: dict[str, str]) -> tuple[int, str, bytes]:
        if "/output" in path:
            return 200, "", _events(LOG, int(headers["last-event-id"]))
        if path.endswith("/artifacts"):
            digest = hashlib.sha256(DATA).hexdigest()
            row = {"name": "a", "type": "file", "size_bytes": len(DATA), "sha256": digest}
            return 200, "", json.dumps({"artifacts": [row]}).encode()
        if "/artifacts/" in path:
            start = int(headers.get("range", "bytes=0-")[6:-1])
            if not start:
                return 200, 'ETag: "v"\r\n', DATA
            assert headers["if-range"] == '"v"'
            extra = f'ETag: "v"\r\nContent-Range: bytes {start}-{len(DATA) - 1}/{len(DATA)}\r\n'
            return 206, extra, DATA[start:]
        return 200, "", json.dumps(self.job).encode()

    def _upload(self, method: str, path: str) -> tuple[int, str, bytes]:
        if path.endswith("/finalize"):
            return self._finalize()
        if method == "DELETE":
            return 204, "", b""
        answer: dict[str, Any] = {"upload_id": UPLOAD, "state": "uploading"}
        if method == "POST":
            answer |= {"rsync_url": f"{self.rsync_url}/{UPLOAD}/", "base": self.base}
            return 201, "", json.dumps(answer).encode()
        answer |= {"state": "finalized", "size_bytes": 1, "file_count": 1}
        return 200, "", json.dumps(answer).encode()

    def _finalize(self) -> tuple[int, str, bytes]:
        if self.busy_finalizes:
            self.busy_finalizes -= 1
            return 409, "", b'{"error": "upload_in_progress", "message": "m"}'
        if self.finalized:
            return 409, "", b'{"error": "upload_already_finalized", "message": "m"}'
        self.finalized = True
        if self.lost_finalizes:
            self.lost_finalizes -= 1
            return 0, "", b""
        files = [path for path in (self.tree / UPLOAD).rglob("*") if path.is_file()]
        answer = {"upload_id": UPLOAD, "state": "finalized", "file_count": len(files)}
        return 200, "", json.dumps({**answer, "size_bytes": 1}).encode()

    def lines(self, method: str) -> list[str]:
        return [line for line, _, _ in self.requests if line.startswith(f"{method} ")]


def _events(log: bytes, offset: int) -> bytes:
    out = bytearray()
    for line in log[offset:].splitlines(keepends=True):
        offset += len(line)
        out += b"id: %d\ndata: %b\n" % (offset, line)
    return bytes(out + b"event: end\ndata: {}\n\n")


class RsyncHost:
    """The real daemon, one process a connection as inetd would start it.

    ``cuts`` are the bytes from the client after which the next connections are reset.
    """

    def __init__(self, directory: Path) -> None:
        self.tree = directory / "tree"
        self.tree.mkdir()
        self.cuts: list[int] = []
        self.connections = 0
        self._config = directory / "rsyncd.conf"
        accepted = " ".join(f"!{option}" for option in ACCEPTED.split())
        refused = f"* {accepted} {REFUSED_AGAIN}"  # as the stack's own daemon
        self._config.write_text(
            f"use chroot = no\nuid = {os.getuid()}\ngid = {os.getgid()}\n"
            f"log file = {directory}/log\n[uploads]\npath = {self.tree}\nread only = no\n"
            f"write only = yes\nlist = no\nmunge symlinks = yes\nrefuse options = {refused}\n"
        )
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = f"rsync://127.0.0.1:{self._listener.getsockname()[1]}/uploads"

    def start(self) -> None:
        self._spawn(self._accept())

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._listener.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(self._listener)
            self.connections += 1
            self._spawn(self._serve(connection, self.cuts.pop(0) if self.cuts else None))

    async def _serve(self, connection: socket.socket, cut: int | None) -> None:
        ours, theirs = socket.socketpair() if cut is not None else (None, connection)
        theirs.setblocking(True)
        process = await asyncio.create_subprocess_exec(
            "rsync",
            "--daemon",
            f"--config={self._config}",
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
        )
        theirs.close()
        try:
            if ours is not None and cut is not None:
                await self._pump(connection, ours, cut)
                process.kill()
            await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def _pump(self, client: socket.socket, daemon: socket.socket, cut: int) -> None:
        loop = asyncio.get_running_loop()
        client.setblocking(False)
        daemon.setblocking(False)

        async def back() -> None:
            while data := await loop.sock_recv(daemon, 65536):
                await loop.sock_sendall(client, data)

        answer = asyncio.ensure_future(back())
        left = cut
        while left > 0 and (data := await loop.sock_recv(client, min(left, 65536))):
            left -= len(data)
            await loop.sock_sendall(daemon, data)
        answer.cancel()
        await asyncio.gather(answer, return_exceptions=True)
        client.close()
        daemon.close()


@pytest.fixture
async def rsyncd(tmp_path: Path) -> AsyncIterator[RsyncHost]:
    directory = tmp_path / "daemon"
    directory.mkdir()
    found = RsyncHost(directory)
    found.start()
    yield found
    await found.stop()


@pytest.fixture
async def host(rsyncd: RsyncHost) -> AsyncIterator[HttpHost]:
    found = HttpHost(rsyncd.tree)
    found.rsync_url = rsyncd.url
    await found.start()
    async with asyncio.timeout(60):
        yield found
    await found.stop()


def client(host: HttpHost) -> FlashpodsClient:
    config = ClientConfig(
        token="t",
        api_url=f"http://127.0.0.1:{host.port}",
        retry_base_delay_ms=10,
    )
    return FlashpodsClient(config)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "a source: tree"
    (root / "sub/node_modules").mkdir(parents=True)
    (root / "sub/node_modules/left-out").write_text("x")
    for number in range(50):
        (root / f"f{number}").write_bytes(os.urandom(20_000))
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o4755)
    (root / "link").symlink_to("f1")
    (root / "-n\n$(x) *").write_text("odd")
    return root


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


async def test_follow_through_resets_and_a_restart(host: HttpHost) -> None:
    host.cuts = [0, 5_000, 3, 9_999]
    text = ""
    restarted = False
    async with client(host) as c:
        async for piece, _ in c.follow("j1"):
            text += piece
            if len(text) > 3_000 and not restarted:
                restarted = True
                await host.stop()
                await host.start()
    assert text.encode() == LOG
    assert host.cuts == []


async def test_download_through_resets(host: HttpHost, tmp_path: Path) -> None:
    host.cuts = [0, 100_000, 1, 300_000]
    async with client(host) as c:
        path = await c.download("j1", "a", tmp_path / "got")
    assert path.read_bytes() == DATA
    ranges = [h.get("range") for line, h, _ in host.requests if line.endswith("/artifacts/a")]
    assert len(ranges) == 5
    assert ranges[-1] is not None


async def test_a_host_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    config = ClientConfig(token="t", api_port=port, api_host="127.0.0.1", retry_base_delay_ms=1)
    async with FlashpodsClient(config) as c:
        with pytest.raises(ClientError) as caught:
            await c.health()
    assert caught.value.code == "host_unreachable"
    assert f"127.0.0.1:{port}" in caught.value.message


async def test_a_proxy_in_the_environment_never_sees_the_token(
    host: HttpHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    async with client(host) as c:
        assert (await c.get_job("j1")).exit_code == 7


async def flashpods(host: HttpHost, cwd: Path, *args: str) -> tuple[int, bytes, bytes]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "flashpods.cli.main",
        *args,
        cwd=cwd,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(cwd),
            "FLASHPODS_API_TOKEN": "t",
            "FLASHPODS_API_URL": f"http://127.0.0.1:{host.port}",
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, out, err


async def test_the_command_run(host: HttpHost, rsyncd: RsyncHost, source: Path) -> None:
    host.cuts = [2_000]
    code, out, err = await flashpods(host, source, "run", "--", "make", "test")
    assert (code, out) == (7, LOG), err
    assert (source / "flashpods-artifacts/j1/a").read_bytes() == DATA
    assert b"uploaded 52 files" in err
    assert (rsyncd.tree / UPLOAD / "f1").exists()
    (body,) = [json.loads(body) for line, _, body in host.requests if line == "POST /jobs"]
    assert (body["command"], body["files_id"]) == ("make test", UPLOAD)


async def test_a_reader_that_leaves_ends_the_command_quietly(host: HttpHost, source: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "flashpods.cli.main",
        "logs",
        "-f",
        "j1",
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(source),
            "FLASHPODS_API_TOKEN": "t",
            "FLASHPODS_API_URL": f"http://127.0.0.1:{host.port}",
        },
        stdout=write,
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(write)
    _, err = await process.communicate()
    assert (process.returncode, err) == (128 + signal.SIGPIPE, b"")
