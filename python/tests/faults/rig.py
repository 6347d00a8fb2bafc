"""A stack that is made to suffer, and what is looked at afterwards.

A :class:`Rig` is a :class:`customer.Customer`, which remembers what the API acknowledged, and does
to the services what it likes; :meth:`Rig.verdict` gathers the evidence and has it judged by
:mod:`checker`, again and again for the contract's 15 s, since what recovery owes may take so long.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import statistics
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
from checker import RECOVERY_SECONDS, Evidence, Log, violations
from customer import Customer
from evidence import observed
from witness import ACTIVE, answered, pressure

from flashpods.failpoints import VARIABLE
from flashpods_dev.machine import Machine
from flashpods_dev.stack import MiniStack

# CPUs and GB that the stacks pretend: enough for some jobs, little enough to bind.
CAPACITY = (8, 16)
SETTLE_SECONDS = 15.0
# What a kill of the API may do to a job: contract section 2, "none | starting".
NOT_FOUND = "container_not_found_on_recovery"
# ./dev test is there to find what is lost, hangs or is left, on a slow machine with other work as
# well: it allows the bounds on time so many times as much. ./dev faults holds everybody to them.
PATIENCE = 10.0
READ_EVERY = 0.05  # seconds
NUMBERED = re.compile(r"\] line (\d+)$", re.MULTILINE)

SETTINGS: dict[str, Any] = {
    "http": {"rate_per_second": 1e6, "rate_burst": 1_000_000},
    "development": {"pretend_cpus": CAPACITY[0], "pretend_memory_gb": CAPACITY[1]},
    "jobs": {"grace_seconds": 0.3},
}


class Rig(Customer):
    """One stack, its clients, and what it has promised."""

    def __init__(
        self,
        state: Path,
        machine: Machine,
        overrides: Mapping[str, Any] | None = None,
        *,
        parts: Sequence[str] = ("podman", "api"),
        strict: bool = True,
    ) -> None:
        """Start nothing yet.

        Args:
            state: its directory.
            machine: the namespace.
            overrides: settings beside :data:`SETTINGS`.
            parts: the services.
            strict: whether the bounds on time hold as they are, however busy the machine is.
        """
        merged = {**SETTINGS, **(overrides or {})}
        for key, value in SETTINGS.items():
            merged[key] = {**value, **(overrides or {}).get(key, {})}
        super().__init__(MiniStack(state, machine, overrides=merged, parts=parts))
        self.allowed: set[str] = set()  # errors that the experiment may cause
        self.excused: set[str] = set()  # jobs whose failure the experiment wants
        self.kills = 0
        self.anew = False  # whether a container that never ran may be made once more
        self.reads: list[float] = []
        self._whole: set[str] = set()  # completed jobs whose artifact was there
        self._seen: set[str] = set()  # ended jobs whose logs were read, and are read at the end
        self._strict = strict
        self._pressure: deque[float] = deque(maxlen=200)
        self._switch = state / "failpoint"
        self.armed = {VARIABLE: f"@{self._switch}"}
        self.stack.use_api(env=self.armed)

    # ------------------------------------------------------------------ life and death

    async def start(
        self, *wrap: str, env: Mapping[str, str] | None = None, fork: bool = False
    ) -> None:
        """Start the API, which must be dead, with these variables; return when it answers.

        ``fork``: without the start of an interpreter (:mod:`flashpods_dev.zygote`).
        """
        if fork:
            self.stack.fork_api(self.armed)
        else:
            self.stack.use_api(*wrap, env={**self.armed, **(env or {})})
        await asyncio.to_thread(self.stack.api.start)

    def arm(self, place: str) -> None:
        """Have the API killed at that place (``NAME[:N]``), from now on."""
        fresh = self._switch.with_suffix(".new")
        fresh.write_text(place)
        fresh.replace(self._switch)

    def disarm(self) -> None:
        self._switch.unlink(missing_ok=True)

    async def restart(self, *wrap: str, env: Mapping[str, str] | None = None) -> None:
        await asyncio.to_thread(self.stack.api.terminate)
        await self.start(*wrap, env=env)

    async def died(self, seconds: float = 120) -> bool:
        """Whether the API is dead within that time."""
        end = time.monotonic() + seconds
        while self.stack.api.alive and time.monotonic() < end:  # noqa: ASYNC110 - a process has no event
            await asyncio.sleep(0.01)
        return not self.stack.api.alive

    async def recovered(self, since: float, seconds: float | None = None) -> float:
        """Return how long it took since ``since`` until only what is meant to run is there.

        Raises:
            AssertionError: it is not so within ``seconds``, by default far more than is allowed.
        """
        seconds = seconds or (45 if self._strict else 10 * PATIENCE)
        end = time.monotonic() + seconds
        while left := await asyncio.to_thread(self.unsettled):
            self._pressure.append(pressure())
            assert time.monotonic() < end, f"not recovered within {seconds} s: {left}"
            await asyncio.sleep(0.05)
        return time.monotonic() - since

    def unsettled(self) -> list[str]:
        """Return active jobs and leftovers that are not meant to be."""
        sql = f"SELECT id, status FROM jobs WHERE status IN {ACTIVE}"
        active = [f"{i} {status}" for i, status in self.see.rows(sql) if i not in self.running]
        if active:
            return active
        containers = self.see.containers()
        extra = set(containers) - {f"job_{job_id}" for job_id in self.running}
        return [*extra, *self.see.leftovers(self.running, containers.values())]

    # ------------------------------------------------------------------ the evidence

    async def logs(self, *, again: bool) -> dict[str, Log]:
        """Return the numbered lines of each job that writes them.

        ``again``: also of those that had ended and were read before.
        """
        states = dict(self.see.rows("SELECT id, status FROM jobs WHERE log_deleted_at IS NULL"))
        found: dict[str, Log] = {}
        for job_id in {*self.lines, *self.running, *self.former} - (set() if again else self._seen):
            status = states.get(job_id)
            if status in ("pending", "cleaning", "cleaned", None):
                continue
            log = found[job_id] = await self.log_of(job_id, whole=status == "completed")
            if status not in ACTIVE and not violations(Evidence(CAPACITY, logs={job_id: log})):
                self._seen.add(job_id)
        return found

    async def log_of(self, job_id: str, *, whole: bool, seconds: float = 60) -> Log:
        """Return a job's numbered lines; ``whole``: all that it was to write must be there."""
        end = time.monotonic() + seconds
        while True:
            answer = await self.ask("GET", f"/jobs/{job_id}/output", params={"tail": 10000})
            if answer is not None and answer.status_code in (200, 404):
                break
            assert time.monotonic() < end, f"no log of {job_id}: {answer and answer.text}"
            await asyncio.sleep(0.05)  # it is away
        text = str(answer.json().get("output", ""))
        return Log(
            [int(n) for n in NUMBERED.findall(text)], self.lines.get(job_id) if whole else None
        )

    async def promises(self) -> list[str]:
        """Return what the API owes and does not give."""
        owed = list(self.odd)
        sql = "SELECT id FROM jobs WHERE status = 'completed' AND artifacts_deleted_at IS NULL"
        for (job_id,) in self.see.rows(sql):
            if job_id in self.lines and job_id not in self._whole:
                answer = await self.ask("GET", f"/jobs/{job_id}/artifacts")
                names = [] if answer is None else answer.json().get("artifacts", [])
                if [n["name"] for n in names] == ["x"]:
                    self._whole.add(job_id)
                else:
                    owed.append(f"the artifact of {job_id} is not there: {answer and answer.text}")
        # Whom recovery calls lost had no container that ran.
        sql = "SELECT id FROM jobs WHERE error = ?"
        owed += [
            f"job {job_id} failed for want of a container, which had run"
            for (job_id,) in self.see.rows(sql, NOT_FOUND)
            if self.see.started.get(f"job_{job_id}")
        ]
        return owed

    async def silent(self) -> list[str]:
        """Return the jobs that go on, and whose log does not.

        Each writes 20 lines a second, so a new one comes soon after what was seen first.
        """
        found = []
        for job_id in sorted(self.running):
            first = await self._last_line(job_id)
            end = time.monotonic() + self.slack(RECOVERY_SECONDS)
            while await self._last_line(job_id) == first:
                if time.monotonic() > end:
                    found.append(f"the log of {job_id} ends at line {first}, the job goes on")
                    break
                await asyncio.sleep(0.02)
        return found

    async def _last_line(self, job_id: str) -> str | None:
        answer = await self.ask("GET", f"/jobs/{job_id}/output", params={"tail": 1})
        found = NUMBERED.findall(answer.json().get("output", "")) if answer is not None else []
        return found[-1] if found else None

    async def overfull(self) -> list[str]:
        """Ask for a CPU, and a GB, more than the jobs that go on leave; return what is given."""
        if not self.running:  # one more than the whole host is beyond what any job may ask for
            return []
        found = []
        cpus, memory = await self._reserved()
        for more in (
            {"cpus": CAPACITY[0] - cpus + 1, "memory_gb": 1},
            {"cpus": 1, "memory_gb": CAPACITY[1] - memory + 1},
        ):
            body = {"type": "worker", "command": "true", **more}
            answer = await self.client.post("/jobs", json=body)
            if answer.json().get("error") != "insufficient_resources":
                found.append(f"{more} with {cpus} CPUs, {memory} GB reserved: {answer.text}")
        return found

    async def _reserved(self) -> tuple[int, int]:
        answer = await self.ask("GET", "/capacity")
        if answer is None or answer.status_code != 200:
            return (-1, -1)  # which it can't be: it is asked again
        found = answer.json()["reserved"]
        return found["cpus"], found["memory_gb"]

    async def evidence(self, recovery: float | None, *, again: bool) -> Evidence:
        found = observed(self.see, self.running, capacity=CAPACITY, reserved=await self._reserved())
        return replace(
            found,
            acknowledged_jobs=frozenset(self.jobs),
            acknowledged_uploads=frozenset(self.uploads),
            acknowledged_cancels=frozenset(self.cancels),
            broken_promises=await self.promises(),
            anew=self.anew,
            logs=await self.logs(again=again),
            recovery=recovery,
            reads=self.reads,
            patience=self.patience,
        )

    @property
    def load(self) -> float:
        """How much the machine has had to do for each core, lately."""
        return statistics.fmean(self._pressure) if self._pressure else 1.0

    @property
    def patience(self) -> float:
        """By how much the bounds on time are stretched; 1 if they are strict."""
        return 1.0 if self._strict else PATIENCE

    def slack(self, seconds: float) -> float:  # a bound as it holds in this run
        return seconds * self.patience

    async def verdict(self, recovery: float | None = None, *, again: bool = True) -> list[str]:
        """Return the broken invariants that are still broken after :data:`SETTLE_SECONDS`.

        ``again``: read also the logs that were read before; an experiment of many tries does so at
        its end.
        """
        end = time.monotonic() + self.slack(SETTLE_SECONDS)
        while broken := violations(await self.evidence(recovery, again=again)):
            if time.monotonic() > end:
                return broken
            await asyncio.sleep(0.2)
        return [*self.endings(), *await self.silent(), *await self.overfull()]

    def endings(self) -> list[str]:
        """Return jobs that ended otherwise than a fault of ours may make them end."""
        sql = (
            "SELECT jobs.id, to_status, error, exit_code, why"
            " FROM job_events JOIN jobs ON jobs.id = job_id"
            " WHERE to_status IN ('failed', 'timed_out')"
        )
        return [
            f"job {job_id} ended {status}, {error}, exit code {code}: {why}"
            for job_id, status, error, code, why in self.see.rows(sql)
            if error not in self.allowed and job_id not in self.excused
        ]

    # ------------------------------------------------------------------ unrelated readers

    @asynccontextmanager
    async def readers(self, count: int = 2) -> AsyncIterator[None]:
        """Read lists and capacity meanwhile, 20 times a second, and keep how long it took."""
        async with asyncio.TaskGroup() as group, self.new_client(5) as client:
            tasks = [group.create_task(self._read(client)) for _ in range(count)]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()

    async def _read(self, client: httpx.AsyncClient) -> None:
        """Read, and count what would have been due during a slow answer as well.

        Those reads are not made up for: a machine that can't serve them all would fall behind for
        ever, and that is what would be measured.
        """
        for path in itertools.cycle(("/jobs?limit=5", "/capacity")):
            begun = time.monotonic()
            if await answered(client, path):  # else dead, or dying: that is the recovery's figure
                took = time.monotonic() - begun
                self.reads += late_reads(took)
                self._pressure.append(pressure())
                await asyncio.sleep(max(0.0, READ_EVERY - took))
            else:
                await asyncio.sleep(READ_EVERY)


def late_reads(took: float) -> list[float]:
    """Return how long a read took, and those would have that were due before it was answered."""
    count = 1 + int(took / READ_EVERY)
    return [took - number * READ_EVERY for number in range(count)]
