"""Experiment 5, and the API restarted while Podman stands still with its calls in flight.

What the old process asked for is done when the engine goes on, and the new one knows nothing of it.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest
from faultboard import RigFactory, Score, extent
from rig import NOT_FOUND, Rig
from witness import new_key, soon

from flashpods_dev.service import twins

pytestmark = pytest.mark.timeout(900)  # a busy machine needs more than the usual two minutes

CALL_SECONDS = 4  # the deadline of the API's calls to the engine


class Engine:
    """Podman's service, which can be made to stand still."""

    def __init__(self, rig: Rig) -> None:
        self._podman = rig.stack.podman
        self._stopped: list[int] = []

    def stop(self) -> None:
        self._stopped = [self._podman.pid, *twins(self._podman.pid)]
        for pid in self._stopped:
            os.kill(pid, signal.SIGSTOP)

    def go_on(self) -> None:
        while self._stopped:
            os.kill(self._stopped.pop(), signal.SIGCONT)


@contextmanager
def engine_of(rig: Rig) -> Iterator[Engine]:
    """Yield the engine; it goes on in the end, whatever happens."""
    engine = Engine(rig)
    try:
        yield engine
    finally:
        engine.go_on()


async def posted(rig: Rig, number: int) -> list[str]:
    """Return jobs that write numbered lines."""
    return [await rig.must(await rig.count(client_job_id=new_key())) for _ in range(number)]


# Each has the engine stand still at some moment, and returns jobs; the first is to be cancelled.


async def creating(rig: Rig, engine: Engine, chance: random.Random) -> list[str]:
    """The API knows the image, so the first of its calls is a create; the others wait for that."""
    engine.stop()
    jobs = await posted(rig, 3)
    await soon(lambda: rig.see.reached("starting", *jobs), "starting")
    await asyncio.sleep(chance.uniform(0.05, 0.2))
    return jobs


async def launching(rig: Rig, engine: Engine, chance: random.Random) -> list[str]:
    """Stop somewhere within create, init and start of three containers."""
    jobs = await posted(rig, 3)
    await soon(lambda: rig.see.reached("starting", *jobs), "starting")
    await asyncio.sleep(chance.uniform(0, 0.15))
    engine.stop()
    return jobs


async def starting(rig: Rig, engine: Engine, chance: random.Random) -> list[str]:
    """Stop somewhere between init and the end of a short job."""
    jobs = await posted(rig, 1)
    name = f"job_{jobs[0]}"
    await soon(
        lambda: name in rig.see.containers() or rig.see.reached("running", jobs[0]), "container"
    )
    await asyncio.sleep(chance.uniform(0, 0.08))
    engine.stop()
    return jobs


async def removing(rig: Rig, engine: Engine, chance: random.Random) -> list[str]:
    jobs = await posted(rig, 2)
    await rig.until(jobs[0], "completed")
    await asyncio.sleep(chance.uniform(0, 0.05))
    engine.stop()
    return jobs


Moment = Callable[[Rig, Engine, random.Random], Awaitable[list[str]]]
QUICK = (creating, signal.SIGKILL)  # what ./dev test tries


async def restart(rig: Rig, how: signal.Signals) -> None:
    if how is signal.SIGKILL:
        await asyncio.to_thread(rig.stack.api.kill)
    else:
        begun = time.monotonic()
        code = await asyncio.to_thread(rig.stack.api.terminate, 60)
        took = time.monotonic() - begun
        assert code == 0, f"exit code {code}"
        assert took < rig.slack(10), f"it took {took:.1f} s to exit"
    await rig.start()


async def ask_meanwhile(rig: Rig, engine: Engine, chance: random.Random, jobs: list[str]) -> None:
    """Cancel a job of the old process and post two to the new one; go on at any moment."""
    answer = await rig.client.delete(f"/jobs/{jobs[0]}")
    assert answer.status_code in (200, 409), answer.text
    jobs += await posted(rig, 2)
    await asyncio.sleep(chance.uniform(0, 1.5 * CALL_SECONDS))
    engine.go_on()


@pytest.mark.parametrize(
    ("moment", "how"),
    [
        pytest.param(moment, how, id=f"{moment.__name__}-{how.name}", marks=marks)
        for moment in (creating, launching, starting, removing)
        for how in (signal.SIGKILL, signal.SIGTERM)
        for marks in ([] if (moment, how) == QUICK else [pytest.mark.faults_full],)
    ],
)
@pytest.mark.experiment(5, "Podman stopped, the API restarted meanwhile")
async def test_restart_while_podman_stands_still(
    rig_of: RigFactory, score: Score, moment: Moment, how: signal.Signals
) -> None:
    rig = await rig_of({"podman": {"call_seconds": CALL_SECONDS}})
    rig.allowed, rig.anew = {NOT_FOUND}, True
    chance = random.Random(f"{moment.__name__} {how}")
    await rig.bystander()
    for number in range(extent(5, 1, 1)):
        with score.trial(f"{moment.__name__}, {how.name}, {number}"), engine_of(rig) as engine:
            async with rig.readers():
                jobs = await moment(rig, engine, chance)
                await restart(rig, how)
                await ask_meanwhile(rig, engine, chance, jobs)
                begun = time.monotonic()
                for job_id in jobs:
                    await rig.ended(job_id)
                took = await rig.recovered(begun)
            assert rig.stack.podman.alive, f"the engine died: {rig.stack.podman.tail()}"
            score.judge(await rig.verdict(took), took, rig)
    await rig.dismiss()
    score.settle()


@pytest.mark.experiment(5, "SIGTERM of an API that never saw Podman answer")
async def test_sigterm_while_podman_stands_still(rig: Rig, score: Score) -> None:
    """Its calls have half a minute; it does not wait for them."""
    with score.trial(), engine_of(rig) as engine:
        await rig.bystander()
        async with rig.readers():
            engine.stop()
            await restart(rig, signal.SIGKILL)
            jobs = await posted(rig, 2)
            health = await rig.client.get("/health", timeout=rig.slack(5))  # so it was asked
            assert health.status_code == 503, health.text
            await restart(rig, signal.SIGTERM)
            engine.go_on()
            begun = time.monotonic()
            for job_id in jobs:
                assert (await rig.ended(job_id))["status"] == "completed"
            took = await rig.recovered(begun)
        score.judge(await rig.verdict(took), took, rig)
        await rig.dismiss()
    score.settle()
