"""The ContainerRuntime's contract, against the engine in memory and against real Podman."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from runtime_rig import BOUND, ENGINES, LIMITS, Engine

from flashpods.errors import Unavailable
from flashpods.ports import (
    ContainerError,
    ImageError,
)


@pytest.fixture(params=["memory", pytest.param("podman", marks=pytest.mark.system)])
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    async with ENGINES[request.param]() as found:
        yield found


async def silent(_: str) -> None: ...


async def test_a_created_container_does_not_run_yet(engine: Engine) -> None:
    spec = engine.spec("exits 3")
    container_id = await engine.runtime.create(spec)
    state = await engine.runtime.inspect(spec.name)
    assert state is not None
    assert (state.id, state.name, state.job_id) == (container_id, spec.name, spec.job_id)
    assert (state.status, state.exit_code, state.started_at) == ("initialized", None, None)
    assert state.pid


async def test_an_exit_code_comes_through(engine: Engine) -> None:
    _, container_id = await engine.started("exits 3")
    state = await engine.wait(container_id)
    assert state is not None
    assert state.exited
    assert (state.exit_code, state.backstop_hit, state.oom_killed) == (3, False, False)
    assert state.pid is None
    assert state.started_at is not None
    assert state.finished_at is not None
    assert state.started_at <= state.finished_at
    assert state.started_at.utcoffset() is not None


async def test_create_again_returns_the_same_in_any_state(engine: Engine) -> None:
    spec = engine.spec("exits 0")
    container_id = await engine.runtime.create(spec)
    assert await engine.runtime.create(spec) == container_id
    await engine.runtime.start(container_id)
    await engine.wait(container_id)
    assert await engine.runtime.create(spec) == container_id
    state = await engine.runtime.inspect(container_id)
    assert state is not None
    assert state.exited


async def test_many_creates_at_once_make_one_container(engine: Engine) -> None:
    spec = engine.spec("runs")
    ids = await asyncio.gather(*(engine.runtime.create(spec) for _ in range(5)))
    assert len(set(ids)) == 1


async def test_a_name_of_another_job_is_refused(engine: Engine) -> None:
    spec = engine.spec("runs")
    await engine.runtime.create(spec)
    with pytest.raises(ContainerError, match="belongs to"):
        await engine.runtime.create(replace(spec, job_id="another"))


async def test_an_image_gone_before_create_is_worth_another_try(engine: Engine) -> None:
    with pytest.raises(Unavailable, match="image"):
        await engine.runtime.create(engine.spec("runs", image="localhost/flashpods/absent:1"))


async def test_start_is_a_no_op_on_running_and_exited(engine: Engine) -> None:
    _, container_id = await engine.started("runs")
    await engine.runtime.start(container_id)
    await engine.runtime.kill(container_id, "SIGKILL")
    first = await engine.wait(container_id)
    await engine.runtime.start(container_id)
    assert await engine.runtime.inspect(container_id) == first


async def test_what_another_process_may_be_making_is_awaited(engine: Engine) -> None:
    spec = engine.spec("runs")
    async with asyncio.timeout(BOUND):
        assert await engine.runtime.awaited(spec.name) is None
        container_id = await engine.runtime.create(spec)
        found = await engine.runtime.awaited(spec.name)
    assert found is not None
    assert found.id == container_id


async def test_start_of_an_absent_one_is_refused(engine: Engine) -> None:
    with pytest.raises(ContainerError, match="no container"):
        await engine.runtime.start("f" * 64)


async def test_sigterm_ends_one_that_listens(engine: Engine) -> None:
    _, container_id = await engine.started("runs")
    waiting = asyncio.create_task(engine.wait(container_id))
    while not waiting.done():  # one that comes before its PID 1 is executed is lost
        await engine.runtime.kill(container_id, "SIGTERM")
        await asyncio.wait({waiting}, timeout=2)
    state = await waiting
    assert state is not None
    assert state.exit_code == 143


async def test_sigkill_ends_one_that_does_not(engine: Engine) -> None:
    _, container_id = await engine.started("stubborn")
    waiting = asyncio.create_task(engine.wait(container_id))
    await engine.runtime.kill(container_id, "SIGTERM")
    state = await engine.runtime.inspect(container_id)
    assert state is not None
    await engine.runtime.kill(container_id, "SIGKILL")
    state = await waiting
    assert state is not None
    assert state.exit_code in ({137} if engine.memory else {137, 143})  # sh may not trap yet


async def test_kill_is_a_no_op_on_dead_and_absent(engine: Engine) -> None:
    _, container_id = await engine.started("exits 0")
    await engine.wait(container_id)
    await engine.runtime.kill(container_id, "SIGKILL")
    await engine.runtime.kill("f" * 64, "SIGTERM")
    state = await engine.runtime.inspect(container_id)
    assert state is not None
    assert state.exit_code == 0


async def test_remove_kills_and_is_a_no_op_on_absent(engine: Engine) -> None:
    spec, _ = await engine.started("runs")
    await engine.runtime.remove(spec.name)
    await engine.runtime.remove(spec.name)
    assert await engine.runtime.inspect(spec.name) is None
    assert spec.name not in {c.name for c in await engine.runtime.containers()}


async def test_wait_ends_when_it_is_removed_or_was_never_there(engine: Engine) -> None:
    spec, container_id = await engine.started("runs")
    waiting = asyncio.create_task(engine.wait(container_id))
    await engine.runtime.inspect(container_id)
    await engine.runtime.remove(spec.name)
    state = await waiting
    assert state is None or state.exited
    assert await engine.wait("f" * 64) is None


async def test_many_wait_for_one(engine: Engine) -> None:
    _, container_id = await engine.started("runs")
    waiting = [asyncio.create_task(engine.wait(container_id)) for _ in range(50)]
    await engine.runtime.kill(container_id, "SIGKILL")
    states = await asyncio.gather(*waiting)
    assert {s.exit_code for s in states if s} == {137}


async def test_a_wait_can_be_cancelled(engine: Engine) -> None:
    _, container_id = await engine.started("runs")
    waiting = asyncio.create_task(engine.runtime.wait(container_id))
    await engine.runtime.inspect(container_id)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    state = await engine.runtime.inspect(container_id)
    assert state is not None
    assert state.running


async def test_containers_lists_ours_in_every_state(engine: Engine) -> None:
    created = engine.spec("runs")
    await engine.runtime.create(created)
    running, _ = await engine.started("runs")
    exited, exited_id = await engine.started("exits 3")
    await engine.wait(exited_id)
    found = {c.name: c for c in await engine.runtime.containers()}
    assert found[created.name].status == "initialized"
    assert found[running.name].running
    assert found[exited.name].exited
    assert found[exited.name].exit_code == 3
    assert found[running.name].job_id == running.job_id


async def test_what_a_dead_one_wrote_can_go_before_it(engine: Engine) -> None:
    spec = engine.spec("exits 3")
    if engine.memory is None:
        spec = replace(spec, argv=("/bin/sh", "-c", "seq 1000000 >/tmp/fill; exit 3"))
    container_id = await engine.runtime.create(spec)
    await engine.runtime.empty(container_id)  # it has not run: nothing
    await engine.runtime.start(container_id)
    await engine.wait(container_id)
    for _ in range(2):
        await engine.runtime.empty(spec.name)
    state = await engine.runtime.inspect(spec.name)
    assert state is not None
    assert state.exit_code == 3
    if state.layer is not None:
        assert list(state.layer.iterdir()) == []
    await engine.runtime.remove(spec.name)
    await engine.runtime.empty(spec.name)


async def test_remove_leaves_nothing_beside_the_engine(engine: Engine) -> None:
    spec, _ = await engine.started("runs")
    assert spec.name in await engine.runtime.remnants()
    await engine.runtime.remove(spec.name)
    assert spec.name not in await engine.runtime.remnants()


async def test_limits_are_read_back_before_the_start(engine: Engine) -> None:
    spec = engine.spec("runs")
    container_id = await engine.runtime.create(spec)
    found = await engine.runtime.limits(container_id)
    assert found == (LIMITS if engine.runtime.limits_enforceable() else None)


async def test_limits_of_an_absent_one_are_none(engine: Engine) -> None:
    assert await engine.runtime.limits("f" * 64) is None


async def test_a_present_image_costs_no_pull(engine: Engine) -> None:
    said: list[str] = []

    async def progress(line: str) -> None:
        said.append(line)

    await engine.runtime.ensure_image(engine.image, progress)
    assert not said


async def test_a_local_image_is_never_pulled(engine: Engine) -> None:
    with pytest.raises(ImageError, match="localhost/flashpods/absent:1") as caught:
        await engine.runtime.ensure_image("localhost/flashpods/absent:1", silent)
    assert caught.value.code == "image_not_found"
