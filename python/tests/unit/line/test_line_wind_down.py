"""The process is told to stop: what is being made comes to run, nothing else is begun."""

from __future__ import annotations

import asyncio

import pytest
from line_world import World

from flashpods.jobs import supervisor
from flashpods.jobs.line import Policy
from flashpods.jobs.states import JobStatus
from flashpods.ports import ContainerSpec


class Gate:
    """Holds up what asks the engine for a container."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.open = asyncio.Event(), asyncio.Event()
        self._create = world.runtime.create
        monkeypatch.setattr(world.runtime, "create", self.create)

    async def create(self, spec: ContainerSpec) -> str:
        self.reached.set()
        await self.open.wait()
        return await self._create(spec)


async def test_a_container_that_is_being_made_comes_to_run_and_no_other_is_begun(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.policy = Policy(launch_slots=1)
    world.boot()
    gate = Gate(world, monkeypatch)
    first, second = await world.accept(), await world.accept()
    for job in (first, second):
        world.supervisor.begin(job)
    await gate.reached.wait()
    world.supervisor.wind_down()
    stopped = asyncio.create_task(world.crash())
    gate.open.set()
    async with asyncio.timeout(30):
        await stopped
    assert [await world.history(job) for job in (first, second)] == [
        ["pending", "starting", "running"],
        ["pending"],
    ]
    await world.recovery.run_once()
    for job in (first, second):
        await world.until(job, JobStatus.RUNNING)
    assert sorted(world.runtime.created) == sorted([first.container_name, second.container_name])


async def test_an_engine_that_does_not_answer_delays_the_stop_only_so_long(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "SETTLE_SECONDS", 0.05)
    gate = Gate(world, monkeypatch)
    job = await world.accept()
    world.supervisor.begin(job)
    await gate.reached.wait()
    world.supervisor.wind_down()
    async with asyncio.timeout(30):
        await world.crash()
    assert await world.history(job) == ["pending", "starting"]


async def test_with_nothing_on_its_way_it_stops_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "SETTLE_SECONDS", 3600)
    await world.running()
    world.supervisor.wind_down()
    async with asyncio.timeout(30):
        await world.crash()
