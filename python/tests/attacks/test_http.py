"""Attack 9: connections and bodies that take without end; others are answered meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import time
import zlib

import pytest
import support
from attacker import (
    bystander,
    connect_idle,
    get,
    memory_mb,
    open_files,
    raw,
    token_of,
)
from scoring import FULL, MB, PATIENCE, Score
from support import Connected

P99 = 1.0  # the bound, seconds


@pytest.mark.attack(9, "5 000 idle connections")
async def test_idle_connections(host: Connected, score: Score) -> None:
    port, pid = host.stack.port, host.stack.api.pid
    before = memory_mb(pid)
    async with bystander(host) as seen:
        opened = await asyncio.to_thread(connect_idle, port, 5000)
        try:
            with score.attempt():
                answer = await raw(port, get("/capacity", token_of(host)))
                assert answer is not None
                assert answer.status == 200
                assert len(opened) == 5000, "the machine could not open so many"
            with score.attempt():
                # Each is closed when its head has not come in time (web/protocol.py).
                limit = time.monotonic() + 30 * PATIENCE
                for sock in opened:
                    sock.settimeout(max(0.1, limit - time.monotonic()))
                    assert await asyncio.to_thread(sock.recv, 1) == b""
        finally:
            for sock in opened:
                sock.close()
    with score.attempt():
        assert seen.errors == 0
        score.figure("memory grown", memory_mb(pid) - before, 150, "MB")
        score.figure("others' p99", seen.p99, P99)
        await support.true_soon(lambda: open_files(pid) < 200, "the descriptors are free")


@pytest.mark.attack(9, "slowloris: heads and bodies a byte at a time")
@pytest.mark.attacks_full
async def test_slowloris(host: Connected, score: Score) -> None:
    port, token = host.stack.port, token_of(host)
    head = get("/jobs", token)[:-2]
    body = (
        f"POST /jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        "Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n{"
    ).encode()
    stranger = b"POST /jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n{"

    async def drip(start: bytes, number: int) -> float:
        """Send a byte every half second; return when the host had enough."""
        began = time.monotonic()
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, local_addr=(f"127.0.2.{1 + number % 200}", 0)
        )
        ended = asyncio.create_task(reader.read())
        with contextlib.suppress(ConnectionError):
            writer.write(start)
            while not ended.done() and time.monotonic() < began + 45:
                writer.write(b"x")
                await writer.drain()
                await asyncio.wait({ended}, timeout=0.5)
        assert ended.done(), start[:30]
        with contextlib.suppress(ConnectionError):
            ended.result()
        writer.close()
        return time.monotonic() - began

    async with bystander(host) as seen:
        kinds = [head, stranger] + ([body] if FULL else [])
        took = await asyncio.gather(*(drip(kinds[n % len(kinds)], n) for n in range(300)))
    with score.attempt():
        score.figure("a connection held", max(took), 40 if FULL else 20)
    with score.attempt():
        assert seen.errors == 0
        score.figure("others' p99", seen.p99, P99)


@pytest.mark.attack(9, "huge, endless and lying bodies")
async def test_bodies(host: Connected, score: Score) -> None:
    port, token = host.stack.port, token_of(host)
    auth = f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\n"
    start = f"POST /jobs HTTP/1.1\r\nHost: x\r\n{auth}".encode()
    before = memory_mb(host.stack.api.pid)

    def chunked(size: int, count: int) -> bytes:
        chunk = b"%x\r\n%b\r\n" % (size, b" " * size)
        return start + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * count

    def sized(length: int | str, content: bytes) -> bytes:
        return start + f"Content-Length: {length}\r\n\r\n".encode() + content

    tries = [
        (sized(2 * MB, b" " * 2 * MB), {413}),
        (sized(10**15, b" " * MB), {413}),
        (sized(10**30, b" " * MB), {400, 413}),
        (sized("-1", b""), {400}),
        (sized("0x10", b" " * 16), {400}),
        (sized("5\r\nContent-Length: 6", b" " * 6), {400}),
        (sized("5\r\nTransfer-Encoding: chunked", b"0\r\n\r\n"), {400}),
        (chunked(64 * 1024, 100), {413}),
        (chunked(1, 20_000) + b"0\r\n\r\n", {400}),
        (start + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n", {400}),
        (start + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", {400}),
        (start + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", {400, 501}),
        (start + b"X: " + b"a" * 200_000 + b"\r\n\r\n", {400}),
        (start + b"X: 1\r\n" * 20_000 + b"\r\n", {400}),
        (b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n", {400}),
        (b"\x16\x03\x01" + bytes(500), {400}),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400, 401, 404, 405}),
    ]
    async with bystander(host) as seen:
        for request, statuses in tries:
            with score.attempt():
                answer = await raw(port, request)
                # None: cut before the answer could be read, for the sender went on and on.
                assert answer is None or answer.status in statuses, (request[-80:], answer)
        rounds = [raw(port, chunked(64 * 1024, 64)) for _ in range(64)]
        with score.attempt():
            for answer in await asyncio.gather(*rounds):
                assert answer is None or answer.status in {413, 429}
    with score.attempt():
        assert seen.errors == 0
        score.figure("memory grown", memory_mb(host.stack.api.pid) - before, 100, "MB")
        score.figure("others' p99", seen.p99, P99)


@pytest.mark.attack(9, "compressed bombs and deep JSON")
async def test_bombs(host: Connected, score: Score) -> None:
    zeros = bytes(300 * MB)
    bombs = {
        "gzip": gzip.compress(zeros, 1),
        "deflate": zlib.compress(zeros, 1),
        "br": b"\x00" * 1000,
        "gzip, gzip": gzip.compress(gzip.compress(zeros, 9)),
    }
    del zeros
    before = memory_mb(host.stack.api.pid)
    async with bystander(host) as seen:
        for encoding, content in bombs.items():
            with score.attempt():
                headers = {"Content-Encoding": encoding, "Content-Type": "application/json"}
                answer = await host.client.post("/jobs", content=content, headers=headers)
                assert answer.status_code in {400, 413, 415}, answer.text
        json = {"Content-Type": "application/json"}
        deep = [b"[" * 1_000_000, b'{"a":' * 200_000, b"[" * 500_000 + b"]" * 500_000]
        wide = [
            b'{"type":"worker",' + b'"a":1,' * 150_000 + b'"b":1}',
            b"[" + b"1," * 500_000 + b"1]",
        ]
        long = [b'{"cpus":' + b"9" * 900_000 + b"}", b'{"cpus":1e' + b"9" * 900_000 + b"}"]
        text = [b'"' + b"\\u0000" * 170_000 + b'"', b'{"command":"' + b"a" * 1_000_000 + b'"}']
        for content in (*deep, *wide, *long, *text):
            with score.attempt():
                answer = await host.client.post("/jobs", content=content, headers=json)
                assert answer.status_code == 400, (content[:20], answer.text)
                assert len(answer.content) < 2000
        with score.attempt():
            query = "&".join(f"status={n}" for n in range(3000))
            assert (await host.client.get(f"/jobs?{query}")).status_code == 400
    with score.attempt():
        assert seen.errors == 0
        score.figure("memory grown", memory_mb(host.stack.api.pid) - before, 100, "MB")
        score.figure("others' p99", seen.p99, P99)


@pytest.mark.attack(9, "clients that ask and never read")
async def test_readers_that_do_not_read(host: Connected, score: Score) -> None:
    port, token = host.stack.port, token_of(host)
    row = await support.run(
        host.client, "head -c 50000000 /dev/zero > /artifacts/zeros; seq 200000"
    )
    before = memory_mb(host.stack.api.pid)
    paths = [
        f"/jobs/{row['id']}/artifacts/zeros",
        f"/jobs/{row['id']}/output?follow=true",
        f"/jobs/{row['id']}/output?tail=10000",
        "/openapi.json",
    ]
    async with bystander(host) as seen:
        writers = []
        for number in range(200):
            _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
            # Pipelined: a hundred requests before the first answer is read.
            writer.write(get(paths[number % 4], token) * (100 if number % 4 == 3 else 1))
            writers.append(writer)
        await asyncio.sleep(2)  # what is measured is a stretch of time
        grown = memory_mb(host.stack.api.pid) - before
        for writer in writers:
            writer.transport.abort()
    with score.attempt():
        score.figure("memory grown", grown, 200, "MB")
    with score.attempt():
        assert seen.errors == 0
        score.figure("others' p99", seen.p99, P99)
