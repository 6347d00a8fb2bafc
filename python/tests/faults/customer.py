"""A client of a stack that is made to suffer: its requests, and what it was promised for them."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from witness import Witness

from flashpods_dev.machine import RSYNC_UID
from flashpods_dev.stack import MiniStack

LINES = 40
# What may be said of a job that is not taken: too often, no room or not now, no disk.
REFUSALS = (429, 503, 507)


def counting(lines: int = LINES, pause: float = 0, then: str = "") -> str:
    """Return a command that writes numbered lines and an artifact."""
    wait = f"; sleep {pause}" if pause else ""
    loop = f"i=0; while [ $i -lt {lines} ]; do echo line $i; i=$((i+1)){wait}; done"
    return f"{loop}; echo x >/artifacts/x; {then}"


class Customer:
    """Makes requests of an API that may be away, and remembers what was acknowledged."""

    def __init__(self, stack: MiniStack) -> None:
        """Have asked for nothing yet."""
        self.stack = stack
        self.see = Witness(stack)
        self.client: httpx.AsyncClient
        self.jobs: set[str] = set()
        self.uploads: set[str] = set()
        self.lines: dict[str, int] = {}  # job → numbered lines that it writes
        self.running: set[str] = set()  # meant to outlive the experiment's faults
        self.former: set[str] = set()  # outlived them, and were cancelled then
        self.unanswered: list[dict[str, Any]] = []  # bodies with a key, to be posted again
        self.finalized: set[str] = set()  # uploads, likewise
        self.cancels: set[str] = set()  # jobs whose cancellation was acknowledged
        self.odd: list[str] = []  # answers that no fault excuses

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Have a client of this event loop."""
        async with self.new_client() as self.client:
            yield

    def new_client(self, seconds: float = 30) -> httpx.AsyncClient:
        token = self.stack.layout.token.read_text().strip()
        return httpx.AsyncClient(
            base_url=self.stack.api_url,
            headers={"Authorization": f"Bearer {token}"},
            trust_env=False,
            verify=False,  # plain HTTP; to read all authorities holds our loop up 20 ms
            timeout=seconds,
        )

    async def ask(self, method: str, path: str, **options: Any) -> httpx.Response | None:
        """Make a request; None if the connection broke, so that nothing was acknowledged."""
        try:
            return await self.client.request(method, path, **options)
        except httpx.TransportError:
            return None

    async def post(self, command: str, **fields: Any) -> str | None:
        """POST a worker; remember it if it is acknowledged, and return its id."""
        body = {"type": "worker", "command": command, "cpus": 1, "memory_gb": 1, **fields}
        answer = await self.ask("POST", "/jobs", json=body)
        if answer is None and "client_job_id" in body:
            self.unanswered.append(body)
        if answer is None or answer.status_code not in (200, 201):
            if answer is not None and answer.status_code not in REFUSALS:
                self.odd.append(f"POST /jobs: {answer.status_code} {answer.text[:200]}")
            return None
        job_id = str(answer.json()["job_id"])
        self.jobs.add(job_id)
        return job_id

    async def cancel(self, job_id: str) -> bool:
        """DELETE the job; whether that was acknowledged. It may have ended by then."""
        answer = await self.ask("DELETE", f"/jobs/{job_id}")
        if answer is not None and answer.status_code not in (200, 409, *REFUSALS):
            self.odd.append(f"DELETE of {job_id}: {answer.status_code} {answer.text[:200]}")
        if answer is None or answer.status_code != 200:
            return False
        self.cancels.add(job_id)
        return True

    async def count(self, lines: int = LINES, pause: float = 0, **fields: Any) -> str | None:
        """POST a worker that writes numbered lines, once it has found the tree it was promised."""
        command = counting(lines, pause)
        if "files_id" in fields:
            command = f"grep -q x d/f || exit 9; {command}"
        job_id = await self.post(command, **fields)
        if job_id:
            self.lines[job_id] = lines
        return job_id

    async def post_again(self) -> None:
        """Repeat what was not answered, as a client does; a key makes one job, however often."""
        while self.unanswered:
            body = self.unanswered.pop()
            answers = [await self.client.post("/jobs", json=body) for _ in range(2)]
            ids = {answer.json().get("job_id") for answer in answers}
            assert len(ids) == 1, f"one key, two jobs: {ids}"
            assert None not in ids, answers[0].text
            self.jobs |= ids
            for job_id in ids:
                self.lines[job_id] = LINES

    async def must(self, job_id: str | None) -> str:
        assert job_id is not None, f"the job was refused; {self.stack.api.tail()}"
        return job_id

    async def bystander(self) -> str:
        """Start a job that writes numbered lines until it is cancelled; return it running."""
        command = "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.05; done"
        job_id = await self.must(await self.post(command))
        await self.until(job_id, "running")
        self.running.add(job_id)
        return job_id

    async def dismiss(self) -> None:
        """Cancel the jobs that were to outlive the faults."""
        for job_id in sorted(self.running):
            assert await self.cancel(job_id), f"{job_id} can't be cancelled"
            await self.until(job_id, "cancelled")
        self.former |= self.running
        self.running.clear()

    async def until(self, job_id: str, *states: str, seconds: float = 120) -> dict[str, Any]:
        """Wait for one of the states and return the row, which may be beyond it by then.

        A job of some seconds may have ended before a stalled machine looks for the first time; what
        the experiment does then meets another moment, and every invariant holds there as well.
        """
        end = time.monotonic() + seconds
        row: dict[str, Any] = {}
        while not {e["to"] for e in row.get("events", ())} & set(states):
            assert time.monotonic() < end, f"not {states} within {seconds} s: {row}"
            answer = await self.ask("GET", f"/jobs/{job_id}", params={"wait": 1} if row else {})
            if answer is not None and answer.status_code == 200:
                row = answer.json()
                assert row["status"] == row["events"][-1]["to"], f"not of one moment: {row}"
            else:
                await asyncio.sleep(0.05)  # it is away
        return row

    async def ended(self, job_id: str, seconds: float = 120) -> dict[str, Any]:
        ends = ("completed", "failed", "timed_out", "cancelled", "cleaning", "cleaned")
        return await self.until(job_id, *ends, seconds=seconds)

    async def upload(self, *, project: str | None = "p", finalize: bool = True) -> str | None:
        """Reserve an id, put a small tree where rsync would, finalize; None if one step failed."""
        answer = await self.ask("POST", "/uploads", json={"project": project} if project else {})
        if answer is None or answer.status_code != 201:
            return None
        upload_id = str(answer.json()["upload_id"])
        self.uploads.add(upload_id)
        self.plant(upload_id)
        if finalize:
            done = await self.ask("POST", f"/uploads/{upload_id}/finalize")
            if done is None or done.status_code != 200:
                return None
            self.finalized.add(upload_id)
        return upload_id

    def plant(self, upload_id: str) -> None:
        """Put a tree into the rsync module, as its user owns it."""
        tree = self.stack.layout.trees / "transfers" / upload_id
        (tree / "d").mkdir(parents=True)
        (tree / "d" / "f").write_text("x" * 1000)
        for path in (tree, tree / "d", tree / "d" / "f"):
            os.chown(path, RSYNC_UID, RSYNC_UID)

    async def push_again(self) -> None:
        """Finalize what was reserved and pushed, as a client does, and drop it."""
        for (upload_id,) in self.see.rows("SELECT id FROM uploads WHERE state = 'uploading'"):
            if upload_id in self.uploads:
                answer = await self.client.post(f"/uploads/{upload_id}/finalize")
                assert answer.status_code == 200, f"{upload_id}: {answer.text}"
        for (upload_id,) in self.see.rows(
            "SELECT id FROM uploads WHERE state = 'finalized' AND job_id IS NULL"
        ):
            answer = await self.client.delete(f"/uploads/{upload_id}")
            assert answer.status_code == 204, f"{upload_id}: {answer.text}"
