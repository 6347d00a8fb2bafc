"""The API behind its real server: connections, refusals on the wire, shutdown, the program."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from api_rig import TOKEN, Rig, make_rig, waiting_in

from flashpods.api import main
from flashpods.config import Settings
from flashpods.config_base import ConfigError
from flashpods.web import protocol

HEAD = f"Host: x\r\nAuthorization: Bearer {TOKEN}\r\n"


class Connection:
    """One connection, in raw HTTP."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        async with asyncio.timeout(30):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {}
            for line in head[1:-2]:
                name, _, value = line.partition(": ")
                assert name not in headers, f"{name} comes twice"
                headers[name] = value
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
            return int(head[0].split()[1]), headers, body

    async def ask(self, text: str, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
        self.writer.write(text.encode() + body)
        return await self.answer()

    async def closed(self) -> bool:
        async with asyncio.timeout(30):
            try:
                return await self.reader.read(1) == b""
            except ConnectionResetError:
                return True


class Running:
    """A rig behind a listening server."""

    def __init__(self, rig: Rig, server: main.Server, port: int) -> None:
        self.rig, self.server, self.port = rig, server, port
        self._open: list[asyncio.StreamWriter] = []

    async def connect(self) -> Connection:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._open.append(writer)
        return Connection(reader, writer)

    async def close(self) -> None:
        for writer in self._open:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


@contextlib.asynccontextmanager
async def running(root: Path, **http: Any) -> AsyncIterator[Running]:
    rig = make_rig(root, host="127.0.0.1", port=0, **http)
    sock = main.bind(rig.settings)
    read, write = os.pipe()
    server = main.Server(main.configure(rig.app, rig.settings), rig.app, write)
    task = asyncio.create_task(server._serve([sock]))  # without its signal handlers
    line = await asyncio.to_thread(os.read, read, 1000)
    os.close(read)
    ready = json.loads(line)
    assert ready["port"] == sock.getsockname()[1]
    up = Running(rig, server, ready["port"])
    try:
        yield up
    finally:
        await up.close()
        server.should_exit = True
        async with asyncio.timeout(30):
            await task
        assert rig.stopped.is_set()


async def test_a_connection_lives_on_after_refusals(tmp_path: Path) -> None:
    async with running(tmp_path) as up:
        c = await up.connect()
        body = b"x" * 100_000
        for line, head, status in (
            ("GET /nowhere", HEAD, 404),
            ("PUT /jobs", f"{HEAD}Content-Length: {len(body)}\r\n", 405),
            ("POST /jobs", f"Host: x\r\nContent-Length: {len(body)}\r\n", 401),
            ("POST /jobs", f"{HEAD}Content-Length: {len(body)}\r\n", 400),
            ("GET /jobs", HEAD, 200),
        ):
            sent = body if "Length" in head else b""
            got, headers, _ = await c.ask(f"{line} HTTP/1.1\r\n{head}\r\n", sent)
            assert got == status
            assert "connection" not in headers
            assert "server" not in headers


async def test_a_chunked_body_over_the_limit(tmp_path: Path) -> None:
    async with running(tmp_path) as up:
        c = await up.connect()
        chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
        head = f"POST /jobs HTTP/1.1\r\n{HEAD}Transfer-Encoding: chunked\r\n\r\n"
        status, _, body = await c.ask(head, chunk * 20 + b"0\r\n\r\n")
        assert (status, json.loads(body)["error"]) == (413, "request_too_large")
        status, _, _ = await c.ask(f"GET /jobs HTTP/1.1\r\n{HEAD}\r\n")
        assert status == 200


async def test_an_endless_body_is_answered_and_cut(tmp_path: Path) -> None:
    async with running(tmp_path) as up:
        c = await up.connect()
        c.writer.write(
            f"POST /jobs HTTP/1.1\r\n{HEAD}Content-Length: 999999999999\r\n\r\n".encode()
        )

        async def pour() -> None:
            with contextlib.suppress(OSError):
                while True:
                    c.writer.write(b"x" * 65536)
                    await c.writer.drain()

        pouring = asyncio.create_task(pour())
        status, headers, body = await c.answer()
        assert (status, json.loads(body)["error"]) == (413, "request_too_large")
        assert headers["connection"] == "close"
        assert await c.closed()
        pouring.cancel()


async def test_expect_continue_is_refused_before_the_body(tmp_path: Path) -> None:
    async with running(tmp_path) as up:
        c = await up.connect()
        status, headers, _ = await c.ask(
            f"POST /jobs HTTP/1.1\r\n{HEAD}Content-Length: 2000000\r\nExpect: 100-continue\r\n\r\n"
        )
        assert (status, headers["connection"]) == (413, "close")
        assert await c.closed()


@pytest.mark.parametrize(
    "text", ["nonsense\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "GET /é HTTP/1.1\r\nHost: x\r\n\r\n"]
)
async def test_what_is_not_http(tmp_path: Path, text: str) -> None:
    async with running(tmp_path) as up:
        c = await up.connect()
        status, headers, body = await c.ask(text)
        assert (status, json.loads(body)["error"]) == (400, "invalid_request")
        assert headers["x-request-id"]
        assert int(headers["x-ratelimit-remaining"]) >= 0
        assert await c.closed()


async def test_a_forwarded_address_is_not_believed(tmp_path: Path) -> None:
    async with running(tmp_path, rate_per_second=0.1, rate_burst=2) as up:
        c = await up.connect()
        got = []
        for n in range(3):
            spoof = f"X-Forwarded-For: 10.9.9.{n}\r\nForwarded: for=10.9.9.{n}\r\n"
            status, _, _ = await c.ask(f"GET /health HTTP/1.1\r\n{HEAD}{spoof}\r\n")
            got.append(status)
        assert got == [200, 200, 429]


async def test_an_endless_head_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as up:
        c = await up.connect()
        c.writer.write(b"GET /jobs HTTP/1.1\r\nX: " + b"x" * (protocol.HEAD_BYTES + 1))
        status, _, body = await c.answer()
        assert (status, json.loads(body)["error"]) == (400, "invalid_request")
        assert await c.closed()


@pytest.mark.parametrize("begun", [b"", b"GET /jobs HTTP/1.1\r\nX: "])
async def test_a_late_head_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(protocol.Protocol, "head_seconds", 0.05)
    async with running(tmp_path) as up:
        c = await up.connect()
        c.writer.write(begun)
        assert await c.closed()


async def test_a_client_that_leaves_ends_its_stream(tmp_path: Path) -> None:
    async with running(tmp_path) as up, asyncio.timeout(30):
        job_id = await up.rig.running()
        c = await up.connect()
        c.writer.write(f"GET /jobs/{job_id}/output?follow=true HTTP/1.1\r\n{HEAD}\r\n".encode())
        await c.reader.readuntil(b"\r\n\r\n")
        assert len(up.rig.app.context.held) == 1
        c.writer.close()
        await waiting_in(up.rig, 0)


async def test_a_slow_client_holds_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path) as up, asyncio.timeout(60):
        job_id = await up.rig.running()
        await up.rig.log(job_id, "\n".join("x" * 1000 for _ in range(20_000)))
        reads: list[int] = []
        read = up.rig.logs.read

        async def counted(*args: Any) -> Any:
            reads.append(args[1])
            return await read(*args)

        monkeypatch.setattr(up.rig.logs, "read", counted)
        sock = socket.create_connection(("127.0.0.1", up.port))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        sock.sendall(f"GET /jobs/{job_id}/output?follow=true HTTP/1.1\r\n{HEAD}\r\n".encode())
        seen = 0
        while not reads or seen != len(reads):  # until it stands still: the client reads nothing
            seen = len(reads)
            await asyncio.sleep(0.2)
        assert max(reads) < 10_000_000  # of 20 MB: the kernel's buffers and one chunk
        sock.close()


async def test_stopping_ends_streams_cleanly_and_soon(tmp_path: Path) -> None:
    async with running(tmp_path) as up, asyncio.timeout(30):
        job_id = await up.rig.running()
        await up.rig.log(job_id, "one")
        c = await up.connect()
        c.writer.write(f"GET /jobs/{job_id}/output?follow=true HTTP/1.1\r\n{HEAD}\r\n".encode())
        await c.reader.readuntil(b"one\n\n\r\n")
        up.server.should_exit = True
        assert await c.reader.read() == b"0\r\n\r\n"  # the whole body: no cut, no end event


async def get_metrics(port: int, path: str = "/metrics") -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    async with asyncio.timeout(30):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_metrics_listener(tmp_path: Path) -> None:
    rig = make_rig(tmp_path, metrics_port=0)
    await rig.running()
    server = await main.listen_metrics(rig.app.context)
    assert server is not None
    port = server.sockets[0].getsockname()[1]
    answer = await get_metrics(port)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b'flashpods_jobs{status="running",type="worker"} 1.0' in answer
    assert b"flashpods_reserved_cpus 2.0" in answer
    assert b"flashpods_build_info" in answer
    assert TOKEN.encode() not in answer
    assert (await get_metrics(port, "/")).startswith(b"HTTP/1.1 404 ")
    taken = make_rig(tmp_path / "2", metrics_port=port)
    with pytest.raises(ConfigError, match=f"metrics_port {port}"):
        await main.listen_metrics(taken.app.context)
    server.close()
    await server.wait_closed()


async def test_metrics_can_be_off(tmp_path: Path) -> None:
    rig = make_rig(tmp_path, metrics_host=None)
    assert await main.listen_metrics(rig.app.context) is None


def test_a_taken_port_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"http.port {port}: Address already in use"):
            main.bind(Settings(http={"host": "127.0.0.1", "port": port}))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "No such file"),
        ("{", "not JSON"),
        ('{"colour": 1}', "unknown key 'colour'"),
        ('{"http": {"host": "127.0.0.1", "port": 0, "token_file": "/nowhere"}}', "/nowhere"),
    ],
)
def test_a_wrong_configuration_is_one_line_and_78(
    tmp_path: Path, text: str | None, says: str
) -> None:
    file = tmp_path / "settings.json"
    if text is not None:
        file.write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "flashpods.api.main", "--config", str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 78
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


async def test_the_program_says_its_port_and_stops_on_sigterm(tmp_path: Path) -> None:
    names = ("transfers", "finalized", "work", "artifacts", "capture", "logs")
    for name in ("db", *names):
        (tmp_path / name).mkdir()
    (tmp_path / "token").write_text(TOKEN)
    settings = {
        "http": {
            "host": "127.0.0.1",
            "port": 0,
            "token_file": str(tmp_path / "token"),
            "metrics_host": None,
        },
        "paths": {
            "database": str(tmp_path / "db" / "flashpods.db"),
            **{name: str(tmp_path / name) for name in names},
        },
        "podman": {"socket": str(tmp_path / "no-podman.sock")},
    }
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    read, write = os.pipe()
    config = str(tmp_path / "settings.json")
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "flashpods.api.main", "--config", config, "--ready-fd", str(write)),
        pass_fds=(write,),
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(write)
    async with asyncio.timeout(60):
        ready = json.loads(await asyncio.to_thread(os.read, read, 1000))
        os.close(read)
        reader, writer = await asyncio.open_connection("127.0.0.1", ready["port"])
        status, _, body = await Connection(reader, writer).ask("GET /health HTTP/1.1\r\n\r\n")
        found = json.loads(body)
        assert (status, found["status"]) == (503, "degraded")  # there is no Podman: still up
        assert found["checks"]["database"] == {"status": "ok"}
        assert found["checks"]["podman"]["status"] == "failing"
        writer.close()
    async with asyncio.timeout(60):
        child.terminate()
        _, err = await child.communicate()
    assert child.returncode == 0
    assert TOKEN.encode() not in err
    for line in err.splitlines():
        json.loads(line)
