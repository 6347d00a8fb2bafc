"""The drill: a host under load loses its database, and gets it back; RPO and RTO are printed."""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

import httpx
import pytest
from admin_runs import asked
from running_api import ApiFactory, RunningApi
from support import SECONDS, ended, post_job, row_of, until

from flashpods_dev.stack import StackError

GATE = "while [ ! -e /artifacts/go ]; do sleep 0.05; done"
ROOMY = {"development": {"pretend_cpus": 64, "pretend_memory_gb": 256}}


@dataclass(frozen=True, slots=True)
class Accepted:
    """A job that the host took: when it was asked, and when its answer was here."""

    asked: float
    told: float
    job_id: str


@dataclass
class Load:
    """Clients that post small jobs as fast as they are taken, and remember what was accepted."""

    running: RunningApi
    accepted: list[Accepted] = field(default_factory=list)
    grew: asyncio.Condition = field(default_factory=asyncio.Condition)
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    async def client(self) -> None:
        while not self.stop.is_set():
            asked = time.time()
            try:
                answer = await post_job(self.running.client, "true")
            except httpx.HTTPError:
                await asyncio.sleep(0.05)
                continue
            if answer.status_code == 201:
                async with self.grew:
                    self.accepted.append(Accepted(asked, time.time(), answer.json()["job_id"]))
                    self.grew.notify_all()
            await asyncio.sleep(0.05)

    async def more(self, count: int) -> None:
        """Return when that many more were accepted."""
        wanted = len(self.accepted) + count
        async with asyncio.timeout(SECONDS), self.grew:
            await self.grew.wait_for(lambda: len(self.accepted) >= wanted)


async def insist(running: RunningApi) -> str:
    """Have a job that runs until it is told to end, however full the host is."""
    job_id = await accepted(running, GATE)
    await until(running.client, job_id, "running")
    return job_id


async def accepted(running: RunningApi, command: str) -> str:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        answer = await post_job(running.client, command)
        if answer.status_code == 201:
            return str(answer.json()["job_id"])
        await asyncio.sleep(0.1)
    raise AssertionError(f"not accepted within {SECONDS} s: {answer.text}")


@pytest.mark.timeout(900)
async def test_a_lost_database_comes_back_under_load(
    api: ApiFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    running = api({**ROOMY, "backup": {"directory": "/nonexistent/replaced"}})
    backups = running.stack.layout.root / "backups"
    running.restart({"backup": {"directory": str(backups)}})
    load = Load(running)
    clients = [asyncio.create_task(load.client()) for _ in range(3)]
    try:
        await drill(running, load, capsys)
    finally:
        load.stop.set()
        await asyncio.gather(*clients)


async def drill(running: RunningApi, load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    path = running.settings_path
    survivor = await insist(running)
    await load.more(10)

    began = time.time()
    made = await asked(path, "backup")
    await load.more(10)
    late = await insist(running)  # the backup does not know it

    running.kill()
    lost = time.time()
    with running.db.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * 16 * 4096)
    with pytest.raises(StackError, match="flashpods-admin restore FILE"):
        running.start()

    start = time.monotonic()
    said = await asked(path, "restore", "latest")
    await asyncio.to_thread(running.start)
    await accepted(running, "true")
    rto = time.monotonic() - start
    load.stop.set()

    assert said["jobs"] == made["jobs"]
    latest = datetime.fromisoformat(said["latest_event"]).replace(tzinfo=UTC).timestamp()
    rpo = lost - latest
    # Nothing that was acknowledged before the backup began is missing, and so the loss is bounded
    # by its age: what was asked for last, of that, has an event in it.
    before = [job for job in load.accepted if job.told < began]
    for job in before:
        assert (await running.client.get(f"/jobs/{job.job_id}")).status_code == 200
    assert 0 <= rpo <= lost - max(job.asked for job in before) + 0.001  # events have milliseconds
    # What runs goes on if its row is there; what no row explains is ended.
    assert (await row_of(running.client, survivor))["status"] == "running"
    assert (await running.client.get(f"/jobs/{late}")).status_code == 404
    (running.stack.layout.root / "artifacts" / ".staging" / survivor / "go").touch()
    assert (await ended(running.client, survivor))["status"] == "completed"
    missing = [job for job in load.accepted if began <= job.told <= lost]
    with capsys.disabled():
        sys.stdout.write(
            f"\nrestore drill: RPO {rpo:.1f} s (age of the backup; daily: at most 24 h), "
            f"RTO {rto:.1f} s, {made['jobs']} jobs in the backup, at most {len(missing)} lost\n"
        )
