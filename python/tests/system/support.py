"""What the system tests share: push a tree with rsync, run a job to its end, follow its log."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx

from flashpods.config import Settings
from flashpods_dev.layout import dump, merge, write_for_user
from flashpods_dev.machine import Machine
from flashpods_dev.stack import MiniStack

TERMINAL = ("completed", "failed", "timed_out", "cancelled", "cleaning", "cleaned")
# For anything that takes a second or two, on a machine that is slow, loaded, or stalls.
SECONDS = 120.0


class Host(Protocol):
    """What :class:`running_api.RunningApi` offers to these helpers."""

    @property
    def rsync_url(self) -> str:
        """``rsync://127.0.0.1:PORT/uploads``."""

    client: httpx.AsyncClient


# ------------------------------------------------------------------ stacks


@dataclass(slots=True)
class Connected:
    """A stack as one test sees it, with a client of that test's event loop; a :class:`Host`."""

    stack: MiniStack
    client: httpx.AsyncClient
    settings: Settings = field(init=False)

    def __post_init__(self) -> None:
        """Read the settings."""
        self.settings = Settings(**self.stack.settings)

    @property
    def rsync_url(self) -> str:
        """``rsync://127.0.0.1:PORT/uploads``."""
        return self.stack.info.rsync_url


@contextmanager
def stack_of(machine: Machine, overrides: Mapping[str, Any] | None = None) -> Iterator[MiniStack]:
    """Run a stack for the tests of one module: no rate limit, no reaper, 32 pretended CPUs."""
    state = Path(tempfile.mkdtemp(prefix="m-", dir=os.environ["FLASHPODS_TEST_TMP"]))
    settings = {
        "http": {"rate_per_second": 1e6, "rate_burst": 1_000_000},
        "development": {"pretend_cpus": 32, "pretend_memory_gb": 64},
    }
    parts = ("podman", "rsyncd", "api")
    merged = merge(settings, overrides or {})
    try:
        with MiniStack(state, machine, overrides=merged, parts=parts) as stack:
            yield stack
    finally:
        shutil.rmtree(state, ignore_errors=True)


@asynccontextmanager
async def connect(stack: MiniStack) -> AsyncIterator[Connected]:
    """Give a test its client to the stack of its module."""
    headers = {"Authorization": f"Bearer {stack.layout.token.read_text().strip()}"}
    async with httpx.AsyncClient(
        base_url=stack.api_url, headers=headers, trust_env=False, timeout=60
    ) as client:
        yield Connected(stack, client)


async def clean(stack: MiniStack, overrides: Mapping[str, Any] | None = None) -> None:
    """Run one round of the reaper, with settings of its own: a short retention needs no waiting."""
    path = stack.layout.root / "cleanup.json"
    write_for_user(path, dump(merge(stack.settings, overrides or {})))
    done = await asyncio.to_thread(
        stack.run_python, "flashpods.cleanup_main", "--config", str(path), "--once"
    )
    assert done.returncode == 0, done.stdout + done.stderr


async def true_soon(condition: Callable[[], bool], what: str, seconds: float = SECONDS) -> None:
    """Look at something of the machine that has no event, until it is so.

    Raises:
        AssertionError: it is not within ``seconds``.
    """
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.02)


# ------------------------------------------------------------------ jobs


async def post_job(client: httpx.AsyncClient, command: str, **fields: Any) -> httpx.Response:
    """POST a small worker and return the answer, whatever it is."""
    body = {"type": "worker", "command": command, "cpus": 1, "memory_gb": 1, **fields}
    return await client.post("/jobs", json=body)


async def submit(client: httpx.AsyncClient, command: str, **fields: Any) -> str:
    """POST a worker with 1 CPU and 1 GB unless the fields say otherwise; return its id."""
    answer = await post_job(client, command, **fields)
    assert answer.status_code in (200, 201), answer.text
    return str(answer.json()["job_id"])


async def until(
    client: httpx.AsyncClient, job_id: str, *states: str, seconds: float = SECONDS
) -> dict[str, Any]:
    """Long-poll until the job is in one of the states, and return its row.

    Raises:
        AssertionError: time is up, or the job has ended in a state that is not among them.
    """
    end = time.monotonic() + seconds
    row = await row_of(client, job_id)
    while row["status"] not in states:
        left = end - time.monotonic()
        assert left > 0, f"not {states} within {seconds} s: {row}"
        assert row["status"] not in TERMINAL, f"ended before it was {states}: {row}"
        wait = max(1, min(30, int(left)))
        row = await row_of(client, job_id, wait=wait, since=row["revision"])
    return row


async def row_of(client: httpx.AsyncClient, job_id: str, **query: Any) -> dict[str, Any]:
    """GET the job's row."""
    answer = await client.get(f"/jobs/{job_id}", params=query, timeout=75)
    assert answer.status_code == 200, answer.text
    row: dict[str, Any] = answer.json()
    return row


async def ended(client: httpx.AsyncClient, job_id: str, seconds: float = SECONDS) -> dict[str, Any]:
    """Long-poll until the job has ended, in whatever state, and return its row."""
    return await until(client, job_id, *TERMINAL, seconds=seconds)


async def run(client: httpx.AsyncClient, command: str, **fields: Any) -> dict[str, Any]:
    """POST a worker, wait for its end, return its row."""
    return await ended(client, await submit(client, command, **fields))


async def output(client: httpx.AsyncClient, job_id: str, tail: int = 10000) -> str:
    """Return the end of the job's log, with its time stamps."""
    answer = await client.get(f"/jobs/{job_id}/output", params={"tail": tail})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["output"])


def texts(log: str) -> list[str]:
    """Return the log's lines without their ``[HH:MM:SS.mmm] ``."""
    return [line.split("] ", 1)[1] if "] " in line else line for line in log.splitlines()]


# ------------------------------------------------------------------ uploads


@dataclass(frozen=True, slots=True)
class Rsync:
    """How an rsync ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def sent_bytes(self) -> int:
        """What ``--stats`` says was sent, all in all."""
        (line,) = [x for x in self.stdout.splitlines() if x.startswith("Total bytes sent: ")]
        return int(line.rsplit(" ", 1)[1].replace(",", ""))


async def start_rsync(source: str | Path, target: str, *options: str) -> asyncio.subprocess.Process:
    """Start a push and return its process; the caller ends it."""
    return await asyncio.create_subprocess_exec(
        "rsync",
        *("-rlpt", "--timeout=60", "--contimeout=60", *options, "--", str(source), target),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
    )


async def finish(process: asyncio.subprocess.Process) -> Rsync:
    """Wait for an rsync's end; it is killed when that takes too long."""
    try:
        async with asyncio.timeout(SECONDS):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return Rsync(process.returncode, out.decode(), err.decode())


async def rsync(source: str | Path, target: str, *options: str) -> Rsync:
    """Push with rsync(1) and return how it ended."""
    return await finish(await start_rsync(source, target, *options))


async def reserve(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    """POST /uploads and return the answer."""
    answer = await client.post("/uploads", json=body)
    assert answer.status_code == 201, answer.text
    reserved: dict[str, Any] = answer.json()
    return reserved


async def push(api: Host, tree: Path, upload_id: str | None = None, *extra_rsync_args: str) -> str:
    """Reserve an upload unless an id is given, push the tree to it, return its id."""
    if upload_id is None:
        upload_id = str((await reserve(api.client))["upload_id"])
    end = time.monotonic() + SECONDS
    while True:
        done = await rsync(f"{tree}/", f"{api.rsync_url}/{upload_id}/", *extra_rsync_args)
        if "another transfer writes" not in done.stderr or time.monotonic() > end:
            break  # else the daemon still ends a push before, as in :func:`finalize`
    assert done.code == 0, done.stderr
    return upload_id


async def finalize(client: httpx.AsyncClient, upload_id: str) -> httpx.Response:
    """POST the finalize, as :func:`settled`; the client library asks again as well."""
    return await settled(client, "POST", f"/uploads/{upload_id}/finalize")


async def settled(client: httpx.AsyncClient, method: str, path: str) -> httpx.Response:
    """Ask; while the daemon still ends the upload's transfer, ask again, within bounds.

    That the client's rsync has ended does not mean that the daemon's part has.
    """
    end = time.monotonic() + SECONDS
    while True:
        answer = await client.request(method, path)
        busy = answer.status_code == 409 and answer.json()["error"] == "upload_in_progress"
        if not busy or time.monotonic() > end:
            return answer
        await asyncio.sleep(0.02)  # nothing tells when the daemon's process ends


async def pushed(api: Host, tree: Path, **body: Any) -> str:
    """Push and finalize a tree; return the upload's id, to be a job's ``files_id``."""
    upload_id = str((await reserve(api.client, **body))["upload_id"])
    await push(api, tree, upload_id)
    answer = await finalize(api.client, upload_id)
    assert answer.status_code == 200, answer.text
    return upload_id


def assert_refused(answer: httpx.Response, status: int, code: str) -> None:
    """Check a refusal's status, code and shape."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert body["error"] == code, body
    assert set(body) >= {"error", "message", "details"}


# ------------------------------------------------------------------ follow


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event; of the type ``encoded`` what it decodes to."""

    type: str
    id: int
    data: str


async def events(chunks: AsyncIterator[bytes]) -> AsyncIterator[Event]:
    """Parse a stream of server-sent events; comments are left out, a cut event never shows."""
    rest = b""
    async for chunk in chunks:
        *blocks, rest = (rest + chunk).split(b"\n\n")
        for block in blocks:
            if event := parse(block.split(b"\n")):
                yield event


def parse(lines: Sequence[bytes]) -> Event | None:
    """Parse one event; None for a comment."""
    kind, cursor, data = "message", -1, []
    for line in lines:
        name, _, value = line.partition(b": ")
        if name == b"event":
            kind = value.decode()
        elif name == b"id":
            cursor = int(value)
        elif name in (b"data", b"data:"):
            data.append(value)
    text = b"\n".join(data).decode()
    if kind == "encoded":
        text = json.loads(text).removesuffix("\n")
    return Event(kind, cursor, text) if data else None


@asynccontextmanager
async def follow(
    client: httpx.AsyncClient, job_id: str, *, offset: int = 0, last_event_id: int | None = None
) -> AsyncIterator[AsyncIterator[Event]]:
    """Open the job's event stream; leaving the block cuts the connection."""
    headers = {} if last_event_id is None else {"Last-Event-ID": str(last_event_id)}
    query: dict[str, Any] = {"follow": "true"} | ({"offset": offset} if offset else {})
    async with client.stream(
        "GET", f"/jobs/{job_id}/output", params=query, headers=headers
    ) as answer:
        if answer.status_code != 200:
            await answer.aread()
        assert answer.status_code == 200, answer.text
        yield events(answer.aiter_raw())


async def says(client: httpx.AsyncClient, job_id: str, text: str, seconds: float = SECONDS) -> None:
    """Wait for the text in the output of a running job.

    What a signal does to it is settled from then on only: a container is "running" before its
    PID 1 is executed, and what reaches that by SIGTERM earlier is lost on a busy host.
    """
    async with asyncio.timeout(seconds), follow(client, job_id) as stream:
        async for event in stream:
            assert event.type != "end", event
            if text in event.data:
                return
    raise AssertionError(f"the stream ended without {text!r} and without an end event")


async def follow_to_end(
    client: httpx.AsyncClient, job_id: str, *, offset: int = 0, seconds: float = SECONDS
) -> tuple[str, Event]:
    """Follow until the ``end`` event; return the text and that event."""
    text: list[str] = []
    async with asyncio.timeout(seconds), follow(client, job_id, offset=offset) as stream:
        async for event in stream:
            if event.type == "end":
                return "".join(text), event
            text.append(event.data + "\n")
    raise AssertionError(f"the stream ended without an end event, after {len(text)} events")
