"""A host for the client: a small HTTP server and the real rsync daemon, both can be cut."""

import asyncio
import contextlib
import hashlib
import json
import os
import socket
from pathlib import Path
from typing import Any

from flashpods.client.client import FlashpodsClient
from flashpods.client.config import ClientConfig
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


def client(host: HttpHost) -> FlashpodsClient:
    config = ClientConfig(
        token="t",
        api_url=f"http://127.0.0.1:{host.port}",
        retry_base_delay_ms=10,
    )
    return FlashpodsClient(config)
