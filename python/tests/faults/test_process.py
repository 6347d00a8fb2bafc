"""Experiments 15 to 18: the clock steps, the process is stopped, starved, or its loop hangs."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from faultboard import Score, extent
from rig import Rig
from support import follow
from witness import soon

pytestmark = pytest.mark.timeout(900)  # a busy machine needs more than the usual two minutes

HOUR, YEAR = 3600, 365 * 86400

# ------------------------------------------------------------------ 15


@pytest.mark.parametrize(
    "step",
    [-HOUR, *(pytest.param(s, marks=pytest.mark.faults_full) for s in (HOUR, YEAR, -YEAR))],
)
@pytest.mark.experiment(15, "clock steps of an hour and a year")
async def test_clock_step(rig: Rig, score: Score, shim: Path, step: int) -> None:
    """Only the API's wall clock steps: what runs goes on, neither ended early nor for ever."""
    clock = rig.stack.layout.root / "clock"
    clock.write_bytes(struct.pack("q", 0))
    await rig.restart(env={"LD_PRELOAD": str(shim), "SHIM_CLOCK": str(clock)})
    with score.trial(f"{step:+} s"):
        await rig.bystander()
        running = await rig.must(await rig.count(pause=0.05))
        await rig.until(running, "running")
        upload = await rig.upload()
        async with rig.readers():
            with clock.open("r+b") as file:  # in place: it is mapped
                file.write(struct.pack("q", step))
            begun = time.monotonic()
            row = await rig.ended(running)
            assert row["status"] == "completed", row
            again = await rig.must(await rig.count())
            row = await rig.ended(again)
            assert row["status"] == "completed", row
            ahead = datetime.fromisoformat(row["created_at"]) - datetime.now(UTC)
            assert abs(ahead.total_seconds() - step) < HOUR / 2, f"the API saw no step: {row}"
            if step == -HOUR:
                used = await rig.must(await rig.count(files_id=upload))
                assert (await rig.ended(used))["status"] == "completed"
            took = await rig.recovered(begun)
            score.judge(await rig.verdict(took), took, rig)
        await rig.dismiss()
    score.settle()


# ------------------------------------------------------------------ 16


@pytest.mark.experiment(16, "SIGTERM with open streams")
async def test_sigterm_with_open_streams(rig: Rig, score: Score) -> None:
    for _ in range(extent(5, 1, 1)):
        with score.trial():
            job_id = await rig.must(await rig.count(100, 0.05))
            await rig.until(job_id, "running")
            followers = [asyncio.create_task(follower(rig, job_id)) for _ in range(20)]
            waiting = asyncio.create_task(rig.ask("GET", f"/jobs/{job_id}", params={"wait": 60}))
            async with rig.readers(1):
                await asyncio.sleep(1.5)
                begun = time.monotonic()
                code = await asyncio.to_thread(rig.stack.api.terminate, 60)
                took = time.monotonic() - begun
                assert code == 0, f"exit code {code}"
                assert took < rig.slack(10), f"it took {took:.1f} s to exit"
                await waiting
                begun = time.monotonic()
                await rig.start()
                for lines in await asyncio.gather(*followers):
                    assert lines == list(range(100)), "a follower lost or doubled a line"
            assert (await rig.ended(job_id))["status"] == "completed"
            events = rig.see.rows("SELECT count(*) FROM job_events WHERE job_id = ?", job_id)
            assert events == [(4,)], "the job noticed"
            took = await rig.recovered(begun)
            score.judge(await rig.verdict(took), took, rig)
    score.settle()


async def follower(rig: Rig, job_id: str) -> list[int]:
    """Follow the log to its end, resuming as a client does; return the line numbers."""
    numbers: list[int] = []
    last: int | None = None
    end = time.monotonic() + 120
    while time.monotonic() < end:
        try:
            async with (
                rig.new_client() as client,
                follow(client, job_id, last_event_id=last) as events,
            ):
                async for event in events:
                    if event.type == "end":
                        return numbers
                    last = event.id
                    numbers += [
                        int(n) for n in re.findall(r"line (\d+)$", event.data, re.MULTILINE)
                    ]
        except httpx.TransportError:
            pass
        await asyncio.sleep(0.1)
    raise AssertionError("the stream never ended")


# ------------------------------------------------------------------ 17


@pytest.mark.experiment(17, "ulimit -n 64 under 200 connections")
async def test_few_file_descriptors(rig: Rig, score: Score) -> None:
    await rig.restart("prlimit", "--nofile=64:64")
    with score.trial():
        running = await rig.must(await rig.count(pause=0.1))
        await rig.until(running, "running")
        idle = []
        for _ in range(200):
            connection = socket.socket()
            connection.setblocking(False)
            connection.connect_ex(("127.0.0.1", rig.stack.port))
            idle.append(connection)
        statuses: list[int] = []
        async with rig.new_client(3) as client:
            for _ in range(20):
                body = {"type": "worker", "command": "true", "cpus": 1, "memory_gb": 1}
                try:
                    answer = await client.post("/jobs", json=body)
                except httpx.TransportError:
                    continue  # not even a connection: the kernel's refusal
                statuses.append(answer.status_code)
                if answer.status_code == 201:
                    rig.jobs.add(answer.json()["job_id"])
        assert set(statuses) <= {201, 429, 503}, statuses
        assert rig.stack.api.alive
        for connection in idle:
            connection.close()
        begun = time.monotonic()
        accepted = None
        while accepted is None and time.monotonic() - begun < rig.slack(10):
            accepted = await rig.count()
        job_id = await rig.must(accepted)
        assert (await rig.ended(job_id))["status"] == "completed"
        for other in rig.jobs:
            row = await rig.ended(other)
            assert row["status"] == "completed", row
        took = await rig.recovered(begun)
        score.notes.append(f"answers meanwhile: {sorted(set(statuses)) or 'none, not accepted'}")
        score.judge(await rig.verdict(took), took, rig)
    score.settle()


# ------------------------------------------------------------------ 18


@pytest.fixture
def manager(rig: Rig) -> Iterator[tuple[Path, socket.socket]]:
    """A socket like systemd's, and its path."""
    path = rig.stack.layout.run / "notify"
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as sock:
        sock.bind(str(path))
        path.chmod(0o777)
        sock.setblocking(False)
        yield path, sock


def heard(sock: socket.socket) -> list[str]:
    """Return what has come; from now on the socket does not block."""
    sock.setblocking(False)
    states = []
    while True:
        try:
            states.append(sock.recv(4096).decode())
        except BlockingIOError:
            return states


@pytest.mark.experiment(18, "event loop blocked: watchdog")
async def test_watchdog(rig: Rig, score: Score, manager: tuple[Path, socket.socket]) -> None:
    """READY once it listens, beats while the loop turns, none while it is stopped, STOPPING."""
    path, sock = manager
    with score.trial():
        await rig.restart(env={"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "400000"})
        states: list[str] = []

        def beaten() -> bool:
            states.extend(heard(sock))
            return states.count("WATCHDOG=1") > 2

        await soon(beaten, "beats")
        assert states[0] == "READY=1", states
        assert states.count("READY=1") == 1
        job_id = await rig.must(await rig.count(60, 0.05))
        await rig.until(job_id, "running")
        os.kill(rig.stack.api.pid, signal.SIGSTOP)
        state = Path(f"/proc/{rig.stack.api.pid}/stat")
        await soon(lambda: state.read_text().rsplit(")", 1)[1].split()[0] == "T", "stopped")
        heard(sock)
        await asyncio.sleep(1)
        assert heard(sock) == []  # so systemd would kill it after WatchdogSec
        rig.stack.api.kill()
        begun = time.monotonic()
        # So few beats that the socket's queue, of ten, never overflows while nobody reads it.
        await rig.start(env={"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "600000000"})
        assert (await rig.ended(job_id))["status"] == "completed"
        took = await rig.recovered(begun)
        score.judge(await rig.verdict(took), took, rig)
        heard(sock)
        await asyncio.to_thread(rig.stack.api.terminate)
        assert "STOPPING=1" in heard(sock)
    score.settle()


def test_a_blocked_loop_sends_no_beat(tmp_path: Path) -> None:
    """The beat comes from the loop itself: another thread would go on while the loop hangs."""
    code = (
        "import asyncio, sys\nfrom flashpods.sdnotify import keep_alive\n"
        "async def main():\n"
        "    task = asyncio.create_task(keep_alive())\n"
        "    await asyncio.sleep(0.5)\n    print('blocked', flush=True)\n    sys.stdin.readline()\n"
        "    await asyncio.sleep(0.5)\n"
        "asyncio.run(main())"
    )
    path = tmp_path / "n"
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as sock:
        sock.bind(str(path))
        sock.settimeout(60)
        env = {**os.environ, "NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "100000"}
        with subprocess.Popen(
            [sys.executable, "-c", code],
            env=env,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            assert sock.recv(4096) == b"WATCHDOG=1"
            assert child.stdout.readline() == "blocked\n"
            heard(sock)
            sock.settimeout(1)  # ten beats' time
            with pytest.raises(TimeoutError):
                sock.recv(4096)
            child.stdin.write("go on\n")
            child.stdin.flush()
            sock.settimeout(60)
            assert sock.recv(4096) == b"WATCHDOG=1"
            assert child.wait(60) == 0
