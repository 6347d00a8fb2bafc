"""The client and the command over real sockets: resets, restarts, nobody there, a proxy."""

import asyncio
import json
import os
import signal
import socket
import sys
from pathlib import Path

import pytest
from client_host_rig import DATA, LOG, UPLOAD, HttpHost, RsyncHost, client

from flashpods.client.client import FlashpodsClient
from flashpods.client.config import ClientConfig
from flashpods.client.errors import ClientError


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
