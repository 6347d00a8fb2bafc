"""What one caller can take from the others: connections, requests, time; and what it can't."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs
from token_rig import AGENT, HOST, Rig, claims, eventually, running

JOB, OTHER_JOB = "0123456789abcdef", "fedcba9876543210"


@contextlib.asynccontextmanager
async def up(**tokens: object) -> AsyncIterator[tuple[Rig, str, str]]:
    """The service, and the cgroups of two agents' containers."""
    async with running(**tokens) as rig:
        greedy, other = rig.podman.add(JOB, "agent"), rig.podman.add(OTHER_JOB, "agent")
        rig.peer.path = greedy
        yield rig, greedy, other


async def connect(rig: Rig, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect as a process of that cgroup; return once the connection has been looked at."""
    rig.peer.path = path
    seen = len(rig.peers)
    reader, writer = await asyncio.open_unix_connection(str(rig.socket))
    await eventually(lambda: len(rig.peers) > seen)
    return reader, writer


async def closed(reader: asyncio.StreamReader) -> bytes:
    """Return all that comes until the service closes the connection."""
    async with asyncio.timeout(60):
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""


async def test_one_job_has_its_own_connections_only() -> None:
    async with up(connections_per_peer=3, idle_seconds=60) as (rig, greedy, other):
        held = [await connect(rig, greedy) for _ in range(3)]
        reader, writer = await connect(rig, greedy)
        answer = await closed(reader)
        assert answer.startswith(b"HTTP/1.1 429 ")
        assert b'"rate_limited"' in answer
        assert b"connection: close" in answer
        writer.close()
        rig.peer.path = other
        assert (await rig.ask(rig.token())).status_code == 200
        held.pop()[1].close()
        rig.peer.path = greedy
        await rig.until(rig.token, 200)
        for _, writer in held:
            writer.close()


async def test_all_connections_have_a_bound() -> None:
    async with up(connections=2, connections_per_peer=2, idle_seconds=60) as (rig, greedy, _):
        held = [await connect(rig, greedy) for _ in range(2)]
        reader, writer = await asyncio.open_unix_connection(str(rig.socket))
        answer = await closed(reader)
        assert answer.startswith(b"HTTP/1.1 503 ")
        writer.close()
        for _, each in held:
            each.close()
        await rig.until(rig.token, 200)


@pytest.mark.parametrize("begun", [b"", b"GET /tokens HTTP/1.1\r\nX: "])
async def test_a_connection_without_a_request_is_closed(begun: bytes) -> None:
    async with up(idle_seconds=0.2) as (rig, greedy, _):
        reader, writer = await connect(rig, greedy)
        writer.write(begun)
        assert await closed(reader) == b""
        writer.close()
        await eventually(lambda: rig.peers[-1].closed)  # its place and its pidfd are given back


async def test_a_connection_kept_alive_is_closed_too() -> None:
    for seconds in (1, 10, 60):  # until the request comes in time on this machine
        async with up(idle_seconds=seconds) as (rig, greedy, _):
            reader, writer = await connect(rig, greedy)
            writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = await closed(reader)
            writer.close()
        if answer:
            break
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" not in answer


async def test_one_jobs_rate_is_not_anothers() -> None:
    async with up(rate_per_second=0.01, rate_burst=3) as (rig, _, other):
        with capture_logs() as logged:
            for n in range(6):
                answer = await rig.ask(rig.token() if n % 2 else "forged")
                assert answer.status_code == (401, 200, 401, 429, 429, 429)[n]
            assert answer.json()["error"] == "rate_limited"
            assert answer.headers["retry-after"] == str(answer.json()["retry_after_seconds"])
            assert answer.headers["connection"] == "close"
            rig.peer.path = other
            assert (await rig.ask(rig.token())).status_code == 200
            rig.peer.path = HOST
            assert (await rig.ask(None, "/health")).status_code == 200
        refusals = [line for line in logged if line["event"] == "token exchanges refused"]
        assert [line["peer"] for line in refusals] == [f"job_{JOB}"]  # one line for three


async def test_a_flood_does_not_hold_up_another_job() -> None:
    async with up(rate_per_second=5, rate_burst=20) as (rig, greedy, other):
        stop = False
        asked = 0

        async def flood() -> None:
            nonlocal asked
            while not stop:
                with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                    rig.peer.path = greedy
                    reader, writer = await asyncio.open_unix_connection(str(rig.socket))
                    writer.write(b"GET /tokens HTTP/1.1\r\nHost: x\r\n\r\n" * 50)
                    await reader.read()
                    writer.close()
                    asked += 1

        calm = await connect(rig, other)  # its connection is known as the other job's
        floods = [asyncio.create_task(flood()) for _ in range(10)]
        times: list[float] = []
        token = rig.token()
        while len(times) < 10 or asked <= 20:
            began = time.monotonic()
            calm[1].write(
                f"GET /tokens HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
            )
            async with asyncio.timeout(60):
                head = await calm[0].readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200 ")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                await calm[0].readexactly(length)
            times.append(time.monotonic() - began)
        stop = True
        await asyncio.gather(*floods)
        calm[1].close()
        assert (
            sorted(times)[len(times) // 2] < 1
        )  # 5 ms on a quiet machine, the flood in the same process


@pytest.mark.parametrize("fault", ["hangs", "fails", "away"])
async def test_an_engine_that_does_not_answer(fault: str) -> None:
    async with up(podman_seconds=0.3) as (rig, _, _):
        if fault == "hangs":
            rig.podman.hangs = True
        elif fault == "fails":
            rig.podman.status = 500
        else:
            rig.podman.stop()
            rig.podman.path.unlink()
        began = time.monotonic()
        answers = await asyncio.gather(*(rig.ask(rig.token()) for _ in range(5)))
        assert time.monotonic() - began < 10
        for answer in answers:
            assert (answer.status_code, answer.json()["error"]) == (503, "service_unavailable")
        health = await rig.ask(None, "/health")
        assert health.json()["checks"]["podman"]["status"] == "failing"
        if fault == "away":
            await rig.podman.start()
        rig.podman.hangs, rig.podman.status = False, 200
        await rig.until(rig.token, 200)


async def test_what_is_known_of_containers_serves_while_the_engine_is_away() -> None:
    async with up(podman_seconds=0.3) as (rig, _, _):
        await rig.until(rig.token, 200)
        rig.podman.hangs = True
        assert (await rig.ask(rig.token())).status_code == 200


async def test_no_descriptor_is_left() -> None:
    async with up() as (rig, _, _):

        async def open_files() -> int:
            assert (await rig.ask(rig.key.sign(claims(AGENT)))).status_code == 200
            await eventually(lambda: all(peer.closed for peer in rig.peers))
            return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - as quick as can be

        first = await open_files()
        for _ in range(30):
            await rig.ask(rig.token(exp=1))
            await rig.raw(b"Authorization: Bearer x")
        assert await open_files() <= first + 5  # gRPC opens some of its own as it likes


async def test_stopping_answers_what_is_under_way_and_keeps_the_socket() -> None:
    async with up() as (rig, _, _):
        rig.podman.hangs = True
        asked = asyncio.create_task(rig.ask(rig.token()))
        await eventually(lambda: bool(rig.peers))
        rig.server.should_exit = True
        answer = await asked
        assert answer.status_code == 503
        assert "token.sock" in os.listdir(rig.root)  # noqa: PTH208 - as above
