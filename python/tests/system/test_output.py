"""The log on the real stack: exact, bounded, followed and resumed, whatever dies meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import support
from running_api import ApiFactory, RunningApi
from support import Connected, assert_refused

from flashpods.client import ClientConfig, FlashpodsClient
from flashpods_dev.machine import UID
from flashpods_dev.stack import MiniStack

LINE = re.compile(r"\[\d\d:\d\d:\d\d\.\d{3}\] ")
MB = 1024**2
# Says "ready", then waits for the test to make /artifacts/<word>.
GATE = "gate() {{ while [ ! -e /artifacts/$1 ]; do sleep 0.02; done; }}; {}"


def log_file(host: Connected | RunningApi, job_id: str) -> Path:
    return host.settings.paths.logs / f"{job_id}.log"


def open_gate(host: Connected | RunningApi, job_id: str, word: str) -> None:
    """Let a job go on that waits in its ``gate``."""
    (host.settings.paths.artifacts / ".staging" / job_id / word).touch()


async def page(client: httpx.AsyncClient, job_id: str, **query: Any) -> dict[str, Any]:
    answer = await client.get(f"/jobs/{job_id}/output", params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def logged(host: Connected, command: str) -> tuple[dict[str, Any], list[str]]:
    """Run a job and return its row and the texts of its log."""
    row = await support.run(host.client, command)
    return row, support.texts(await support.output(host.client, row["id"]))


# ------------------------------------------------------------------ what is in the log


async def test_both_streams_in_the_order_they_were_written(host: Connected) -> None:
    code = (
        "import os\nfor n in range(2000):\n    os.write(1 + (n * 7 % 3 == 0), b'line %d\\n' % n)\n"
    )
    row, lines = await logged(host, f'python3 -c "{code}"; echo end >&2')
    assert row["status"] == "completed"
    assert lines == [*(f"line {n}" for n in range(2000)), "end"]
    whole = await support.output(host.client, row["id"])
    assert all(LINE.match(line) for line in whole.splitlines())
    stamps = [line[:14] for line in whole.splitlines()]
    assert stamps == sorted(stamps) or stamps[0] > stamps[-1]  # over midnight


async def test_a_line_in_pieces_is_one_line(host: Connected) -> None:
    command = "for i in 1 2 3; do printf %s $i; sleep 0.02; done; printf 'end\\nnext\\n'"
    _, lines = await logged(host, command)
    assert lines == ["123end", "next"]


async def test_no_newline_at_the_end(host: Connected) -> None:
    row, lines = await logged(host, "printf 'a\\nno newline'")
    assert lines == ["a", "no newline"]
    text, end = await support.follow_to_end(host.client, row["id"])
    assert support.texts(text) == lines
    assert (await page(host.client, row["id"]))["total_bytes"] == end.id


async def test_an_unended_line_shows_when_it_ends(host: Connected) -> None:
    command = GATE.format("echo ready; printf 'half '; gate go; echo whole; gate end")
    job_id = await support.submit(host.client, command)
    await support.until(host.client, job_id, "running")
    async with asyncio.timeout(30), support.follow(host.client, job_id) as stream:
        first = await anext(stream)
        assert support.texts(first.data) == ["ready"]
        assert support.texts(await support.output(host.client, job_id)) == ["ready"]
        open_gate(host, job_id, "go")
        second = await anext(stream)
        assert support.texts(second.data) == ["half whole"]
        open_gate(host, job_id, "end")
    await support.until(host.client, job_id, "completed")


async def test_bytes_that_are_no_text(host: Connected) -> None:
    command = (
        "printf '\\377\\376 ok\\n\\303\\n'; printf 'a\\rb\\n\\033[31mred\\n'; "
        "printf 'nul\\000.\\n'; "
        "printf '\\342\\200\\250 \\302\\205 \\014 odd\\n'; printf '\\n'; "
        "printf '\\360\\237\\230\\200\\n'; printf 'cut \\342\\202'"
    )
    row = await support.run(host.client, command)
    output = await support.output(host.client, row["id"])
    lines = [line.split("] ", 1)[1] for line in output.removesuffix("\n").split("\n")]
    expected = [
        "\ufffd\ufffd ok", "\ufffd", "a\rb", "\x1b[31mred", "nul\0.", "\u2028 \x85 \x0c odd", "",
        "\U0001f600", "cut \ufffd",
    ]  # fmt: skip
    assert lines == expected
    text, _ = await support.follow_to_end(host.client, row["id"])
    assert text == output
    # A cursor counts the log's bytes, not the answer's, so it resumes behind what was replaced.
    first = await page(host.client, row["id"], offset=0, limit=1)
    second = await page(host.client, row["id"], offset=first["next_offset"], limit=1)
    assert support.texts(second["output"]) == ["\ufffd"]


async def test_a_line_without_end_is_cut_not_lost(host: Connected) -> None:
    row, lines = await logged(host, "head -c 600000 /dev/zero | tr '\\0' x; echo; echo end")
    assert row["status"] == "completed"
    assert "".join(lines[:-1]) == "x" * 600_000
    assert lines[-1] == "end"
    assert len(lines) == 4  # 256 KiB each


async def test_an_empty_log(host: Connected) -> None:
    row = await support.run(host.client, "true")
    found = await page(host.client, row["id"])
    assert found == {
        "output": "", "lines": 0, "truncated": False, "total_bytes": 0, "offset": 0,
        "next_offset": 0,
    }  # fmt: skip
    text, end = await support.follow_to_end(host.client, row["id"])
    assert (text, end.id) == ("", 0)


# ------------------------------------------------------------------ ways to read it


@pytest.fixture(scope="module")
def numbered(shared: MiniStack) -> str:
    """The id of an ended job with 10 050 numbered lines."""

    async def make() -> str:
        async with support.connect(shared) as host:
            return str((await support.run(host.client, "seq 10050"))["id"])

    return asyncio.run(make())


async def test_tail(host: Connected, numbered: str) -> None:
    whole = log_file(host, numbered).read_text()
    for tail in (1, 2, 100, 999, 10_000):
        found = await page(host.client, numbered, tail=tail)
        assert found["lines"] == tail
        assert found["output"] == "".join(whole.splitlines(keepends=True)[-tail:])
        assert found["total_bytes"] == len(whole) == found["next_offset"]
        assert not found["truncated"]
    assert (await page(host.client, numbered))["lines"] == 100


@pytest.mark.parametrize(
    "query",
    [
        "tail=0", "tail=10001", "tail=-1", "tail=", "tail=x", "tail=1.5", "tail=1e3", "tail=+1",
        "tail=%D9%A1", "tail=1&tail=2", "tail=99999999999999999999", "offset=-1", "limit=0",
        "limit=1048577", "offset=9007199254740992", "tail=1&offset=1", "tail=5&follow=true",
        "follow=maybe", "follow=1", "follow=true&limit=5", "lines=5", "Tail=5", "tail=%ff",
    ],
)  # fmt: skip
async def test_refused_queries(host: Connected, numbered: str, query: str) -> None:
    answer = await host.client.get(f"/jobs/{numbered}/output?{query}")
    assert_refused(answer, 400, "invalid_request")
    name = query.partition("=")[0]
    assert name in answer.json()["message"] or "%ff" in query


@pytest.mark.parametrize("cursor", ["-1", "x", "", "1.5", "99999999999999999", "1, 2"])
async def test_refused_cursors(host: Connected, numbered: str, cursor: str) -> None:
    headers = {"Last-Event-ID": cursor}
    path = f"/jobs/{numbered}/output?follow=true"
    answer = await host.client.get(path, headers=headers)
    assert_refused(answer, 400, "invalid_request")
    assert "Last-Event-ID" in answer.json()["message"]


async def test_pages_make_the_whole(host: Connected, numbered: str) -> None:
    whole = log_file(host, numbered).read_text()
    chaos = random.Random(3)
    for limits in ([1024 * 1024], [65536], [chaos.randint(5000, 30_000) for _ in range(50)], []):
        offset, parts, calls = 0, [], 0
        while True:
            query = {"limit": limits[calls % len(limits)]} if limits else {}
            found = await page(host.client, numbered, offset=offset, **query)
            assert found["offset"] == offset
            if found["next_offset"] == offset:
                break
            assert found["output"].endswith("\n")
            assert found["lines"] == found["output"].count("\n")
            assert len(found["output"]) <= query.get("limit", 65536)
            parts.append(found["output"])
            offset, calls = found["next_offset"], calls + 1
        assert "".join(parts) == whole
    found = await page(host.client, numbered, offset=0, limit=1)  # never less than a line
    assert found["output"] == whole[: whole.index("\n") + 1]
    beyond = await page(host.client, numbered, offset=len(whole) + 10**6)
    assert beyond["output"] == ""


async def test_unknown_job(host: Connected) -> None:
    for query in ("", "?follow=true", "?offset=0"):
        answer = await host.client.get(f"/jobs/0123456789abcdef/output{query}")
        assert_refused(answer, 404, "job_not_found")


# ------------------------------------------------------------------ the limit


@dataclass(slots=True)
class Disk:
    """Watches what the logs take on disk, each inode once."""

    host: Connected | RunningApi
    peak: int = 0
    task: asyncio.Task[None] | None = field(default=None)

    def used(self) -> int:
        inodes: dict[int, int] = {}
        paths = self.host.settings.paths
        for root in (paths.logs, paths.capture):
            for directory, _, names in os.walk(root):  # passes over what goes meanwhile
                for name in names:
                    with contextlib.suppress(FileNotFoundError):  # rotated away since it was listed
                        info = Path(directory, name).lstat()
                        inodes[info.st_ino] = info.st_size
        return sum(inodes.values())

    async def watch(self) -> None:
        while True:
            self.peak = max(self.peak, await asyncio.to_thread(self.used))
            await asyncio.sleep(0.01)

    async def __aenter__(self) -> Disk:
        self.task = asyncio.create_task(self.watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self.task is not None
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task


def raw_most(log_bytes: int) -> int:
    """Return what one raw file holds before conmon rotates it (adapters/files/capture.py)."""
    return 3 * log_bytes + 64 * 1024 + 16 * 1024


async def check_truncated(
    host: Connected | RunningApi, row: dict[str, Any], log_bytes: int, marker: str
) -> None:
    assert (row["status"], row["exit_code"]) == ("completed", 0), row
    found = await page(host.client, row["id"], tail=2)
    assert found["truncated"]
    last, line = found["output"].splitlines()[-1], found["output"].splitlines()[0]
    assert last == f"[..] [TRUNCATED - log exceeded {marker} MB limit]"
    assert LINE.match(line)
    assert log_bytes - 1100 < found["total_bytes"] <= log_bytes + len(last) + 1
    assert found["total_bytes"] == log_file(host, row["id"]).stat().st_size
    assert not (host.settings.paths.capture / row["id"]).exists()
    text, end = await support.follow_to_end(host.client, row["id"], offset=log_bytes - 5000)
    assert text.splitlines()[-1] == last
    assert end.id == found["total_bytes"]


# 1000 bytes a line, numbered; more than 50 MB of the log.
FLOOD = (
    "python3 -c \"import os\nrest = b'.' * 980 + b'\\n'\n"
    "for n in range({}): os.write(1, b'%019d' % n + rest)\"; echo after >&2; "
    "echo done > /artifacts/done"
)


async def test_the_limit_of_50_mb(host: Connected) -> None:
    log_bytes = 50 * MB
    async with Disk(host) as disk:
        row = await support.run(host.client, FLOOD.format(110_000))
    assert log_bytes < disk.peak <= log_bytes + 3 * raw_most(log_bytes) + MB
    await check_truncated(host, row, log_bytes, "50")
    # The beginning is kept, line by line.
    first = await page(host.client, row["id"], offset=0, limit=MB)
    numbers = [int(text[:19]) for text in support.texts(first["output"])]
    assert numbers == list(range(len(numbers)))
    listed = (await host.client.get(f"/jobs/{row['id']}/artifacts")).json()["artifacts"]
    assert [a["name"] for a in listed] == ["done"]  # the job went on


async def test_the_disk_stays_bounded_under_yes(api: ApiFactory) -> None:
    log_bytes = 256 * 1024
    running = api({"output": {"log_bytes": log_bytes}})
    async with Disk(running) as disk:
        row = await support.run(running.client, "yes | head -c 20000000; echo end")
    assert 0 < disk.peak <= log_bytes + 3 * raw_most(log_bytes) + 64 * 1024
    await check_truncated(running, row, log_bytes, "0.25")


async def test_the_disk_stays_bounded_while_the_api_is_down(api: ApiFactory) -> None:
    log_bytes = 256 * 1024
    running = api({"output": {"log_bytes": log_bytes}})
    command = GATE.format("echo first; gate go; yes | head -c 10000000; echo end")
    job_id = await support.submit(running.client, command)
    await support.until(running.client, job_id, "running")
    running.kill()
    async with Disk(running) as disk:
        open_gate(running, job_id, "go")
        done = await asyncio.to_thread(running.stack.run_podman, "wait", f"job_{job_id}")
        assert done.stdout.strip() == "0", done.stderr
    assert 0 < disk.peak <= log_bytes + 2 * raw_most(log_bytes) + 64 * 1024
    running.start()
    row = await support.ended(running.client, job_id)
    await check_truncated(running, row, log_bytes, "0.25")
    assert support.texts((await page(running.client, job_id, offset=0, limit=1))["output"]) == [
        "first"
    ]


# ------------------------------------------------------------------ follow


async def test_follow_is_the_whole_log(host: Connected, numbered: str) -> None:
    whole = log_file(host, numbered).read_text()
    text, end = await support.follow_to_end(host.client, numbered)
    assert text == whole
    assert end.id == len(whole)
    assert '"status":"completed"' in end.data.replace(" ", "")
    text, _ = await support.follow_to_end(host.client, numbered, offset=len(whole))
    assert text == ""


async def test_follow_from_before_the_start_to_the_end(api: ApiFactory) -> None:
    running = api({"podman": {"launch_slots": 1}, "development": {"pretend_cpus": 8}})
    running.podman.kill()  # the first job waits for the engine, the second for the first
    jobs = [await support.submit(running.client, f"seq 300; echo end {n}") for n in range(2)]
    await support.until(running.client, jobs[0], "starting")
    row = await support.row_of(running.client, jobs[1])
    assert row["status"] == "pending"
    refused = await running.client.get(f"/jobs/{jobs[1]}/output")
    assert_refused(refused, 404, "logs_not_available")
    refused = await running.client.get(f"/jobs/{jobs[1]}/output", params={"offset": 0})
    assert_refused(refused, 404, "logs_not_available")
    followers = [asyncio.create_task(support.follow_to_end(running.client, j)) for j in jobs * 2]
    running.podman.start()
    seen = await asyncio.gather(*followers)
    for number, job_id in enumerate(jobs):
        text, end = seen[number]
        assert support.texts(text) == [*map(str, range(1, 301)), f"end {number}"]
        assert seen[number + 2] == (text, end)
        assert text == await support.output(running.client, job_id)


async def first_bytes(chunks: AsyncIterator[bytes], most: int) -> AsyncIterator[bytes]:
    """Yield a stream's first bytes, as a connection does that is then cut, within an event too."""
    async for chunk in chunks:
        yield chunk[:most]
        most -= len(chunk)
        if most <= 0:
            return


async def cut_and_resume(host: Connected, job_id: str, chaos: random.Random) -> tuple[str, int]:
    """Follow with a connection that is cut again and again; return the text and the cuts."""
    text: list[str] = []
    headers: dict[str, str] = {}
    for cuts in range(5000):
        path = f"/jobs/{job_id}/output?follow=true"
        async with host.client.stream("GET", path, headers=headers) as answer:
            assert answer.status_code == 200
            most = chaos.choice([1, 200, 500, 2000, 100_000])  # an event may have 90 kB
            async for event in support.events(first_bytes(answer.aiter_raw(), most)):
                if event.type == "end":
                    return "".join(text), cuts
                text.append(event.data + "\n")
                headers = {"Last-Event-ID": str(event.id)}
    raise AssertionError(f"no end after {cuts} cuts and {len(text)} events")


async def test_a_cut_connection_loses_and_doubles_nothing(host: Connected, numbered: str) -> None:
    whole = log_file(host, numbered).read_text()
    text, cuts = await cut_and_resume(host, numbered, random.Random(4))
    assert text == whole
    assert cuts > 2
    # And while it grows.
    command = "for i in $(seq 60); do seq $i 200; sleep 0.01; done"
    job_id = await support.submit(host.client, command)
    followers = [cut_and_resume(host, job_id, random.Random(seed)) for seed in range(5)]
    async with asyncio.timeout(60):
        seen = await asyncio.gather(*followers)
    whole = log_file(host, job_id).read_text()
    assert support.texts(whole) == [str(n) for i in range(1, 61) for n in range(i, 201)]
    assert [text for text, _ in seen] == [whole] * 5
    assert sum(cuts for _, cuts in seen) > 10


def lines_of(part: str) -> list[str]:
    return [f"{part} {n}" for n in range(1, 501)]


@pytest.mark.parametrize("ending", ["terminate", "kill"])
async def test_follow_across_a_restart_of_the_api(api: ApiFactory, ending: str) -> None:
    running = api()
    parts = ["one", "two", "three"]
    steps = [f"for i in $(seq 500); do echo {part} $i; done; gate {part}" for part in parts]
    job_id = await support.submit(running.client, GATE.format("; ".join(steps)))
    config = ClientConfig(token=running.token, api_url=running.url, retry_base_delay_ms=50)
    got: list[str] = []
    arrived = {part: asyncio.Event() for part in parts}

    async def follow() -> int:
        last = 0
        async with FlashpodsClient(config) as client:
            async for text, cursor in client.follow(job_id):
                last = cursor
                got.append(text)
                for part in parts:
                    if f"] {part} 500\n" in text:
                        arrived[part].set()
        return last

    follower = asyncio.create_task(follow())
    async with asyncio.timeout(60):
        await arrived["one"].wait()
        if ending == "terminate":
            assert running.terminate(10) == 0  # an open stream does not keep it
        else:
            running.kill()
        open_gate(running, job_id, "one")  # the job goes on with nobody there to read
        await support.true_soon(
            lambda: b"two 500\n" in (running.settings.paths.capture / job_id / "raw").read_bytes(),
            "the job writes while the API is down",
        )
        running.start()
        await arrived["two"].wait()
        open_gate(running, job_id, "two")
        open_gate(running, job_id, "three")
        cursor = await follower
    whole = log_file(running, job_id).read_text()
    assert "".join(got) == whole
    assert cursor == len(whole)
    assert support.texts(whole) == [line for part in parts for line in lines_of(part)]
    row = await support.ended(running.client, job_id)
    assert (row["status"], row["exit_code"]) == ("completed", 0)
    again, _ = await support.follow_to_end(running.client, job_id)
    assert again == whole


async def test_an_old_cursor_outlives_a_kill(api: ApiFactory) -> None:
    """The offsets that a reader holds stay true when a killed API goes back to its checkpoint."""
    running = api()
    steps = "seq 1 3000; gate one; seq 3001 6000; gate two"
    job_id = await support.submit(running.client, GATE.format(steps))
    async with asyncio.timeout(60):
        cursor, text = 0, ""
        async with support.follow(running.client, job_id) as stream:
            async for event in stream:
                text, cursor = text + event.data + "\n", event.id
                if "] 3000\n" in text:
                    break
        for _ in range(2):
            running.kill()
            running.start()
            found = await page(running.client, job_id, offset=0, limit=MB)
            assert found["output"] == text[: len(found["output"])]
        open_gate(running, job_id, "one")
        open_gate(running, job_id, "two")
        rest, end = await support.follow_to_end(running.client, job_id, offset=cursor)
    assert text + rest == log_file(running, job_id).read_text()
    assert support.texts(text + rest) == [str(n) for n in range(1, 6001)]
    assert end.id == len(text + rest)


# ------------------------------------------------------------------ before and after


async def test_a_pull_shows_in_the_log(host: Connected) -> None:
    image = "127.0.0.1:1/no/registry:here"
    row = await support.run(host.client, "true", image=image)
    assert (row["status"], row["error"]) == ("failed", "image_pull_failed")
    assert row["exit_code"] is None
    output = await support.output(host.client, row["id"])
    assert all(LINE.match(line) for line in output.splitlines())
    lines = support.texts(output)
    assert lines[0] == f"Trying to pull {image}..."
    assert lines[-1].startswith(f"[flashpods] cannot pull {image}: ")
    text, _ = await support.follow_to_end(host.client, row["id"])
    assert text == output


async def test_a_deleted_log(api: ApiFactory) -> None:
    host = api()
    row = await support.run(host.client, "echo soon gone")
    other = await support.submit(host.client, GATE.format("echo stays; gate go"))
    await support.until(host.client, other, "running")
    assert log_file(host, row["id"]).exists()
    await support.clean(host.stack, {"output": {"log_retention_seconds": 0.001}})
    assert not log_file(host, row["id"]).exists()
    for query in ("", "?follow=true", "?offset=0&limit=5", "?tail=1"):
        answer = await host.client.get(f"/jobs/{row['id']}/output{query}")
        assert_refused(answer, 410, "logs_deleted")
    assert (await support.row_of(host.client, row["id"]))["status"] == "cleaned"
    open_gate(host, other, "go")
    await support.until(host.client, other, "completed")
    assert support.texts(await support.output(host.client, other)) == ["stays"]


async def test_over_the_total_the_oldest_log_goes_first(api: ApiFactory) -> None:
    running = api()
    jobs = [(await support.run(running.client, f"seq 20000; echo {n}"))["id"] for n in range(3)]
    sizes = [log_file(running, job_id).stat().st_blocks * 512 for job_id in jobs]
    most = sum(sizes[1:])
    await support.clean(running.stack, {"output": {"logs_total_bytes": most, "log_bytes": most}})
    answer = await running.client.get(f"/jobs/{jobs[0]}/output")
    assert_refused(answer, 410, "logs_deleted")
    for job_id in jobs[1:]:
        assert (await page(running.client, job_id))["lines"] == 100
    # Only its log: the row and its artifacts stay.
    assert (await support.row_of(running.client, jobs[0]))["status"] == "completed"
    assert (await running.client.get(f"/jobs/{jobs[0]}/artifacts")).status_code == 200


async def test_only_we_read_the_logs(host: Connected, numbered: str) -> None:
    info = log_file(host, numbered).stat()
    assert info.st_uid == UID
    assert info.st_mode & 0o007 == 0
