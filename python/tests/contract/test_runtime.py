"""The ContainerRuntime's contract, against the engine in memory and against real Podman."""

from __future__ import annotations

import asyncio
import os
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from flashpods.adapters.podman.runtime import PodmanRuntime
from flashpods.config import Podman
from flashpods.errors import Unavailable
from flashpods.ports import (
    ContainerError,
    ContainerRuntime,
    ContainerSpec,
    ContainerState,
    ImageError,
    Limits,
)
from flashpods.testing.runtime import IMAGE, MemoryRuntime, Script

LIMITS = Limits(cpus=1, memory_bytes=256 * 1024**2, pids=64)
BOUND = 30  # seconds, for anything that should take milliseconds

# A behaviour by name: how to script it, and the shell that does it.
BEHAVIOURS = {
    "runs": (Script(), "exec sleep 300"),
    "stubborn": (Script(ignores_sigterm=True), "trap '' TERM; while :; do sleep 1; done"),
    "exits 0": (Script(exits=0), "exit 0"),
    "exits 3": (Script(exits=3), "exit 3"),
}


def environment(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        pytest.fail(f"{name} is not set: run the tests with ./dev test, which starts the stack")
    return value


@pytest.fixture
def podman_socket() -> Path:
    return Path(environment("FLASHPODS_TEST_PODMAN_SOCKET"))


@dataclass
class Engine:
    runtime: ContainerRuntime
    image: str
    logs: Path
    memory: MemoryRuntime | None

    def spec(self, behaviour: str, **changes: object) -> ContainerSpec:
        script, shell = BEHAVIOURS[behaviour]
        name = f"hpod_{uuid.uuid4().hex[:12]}"
        if self.memory:
            self.memory.scripts[name] = script
        spec = ContainerSpec(
            job_id=name.removeprefix("hpod_"),
            job_type="worker",
            name=name,
            image=self.image,
            argv=("/bin/sh", "-c", shell),
            env={},
            workdir="/",
            mounts=(),
            limits=LIMITS,
            backstop_seconds=120,
            log_path=self.logs / f"{name}.log",
            enforce_limits=self.runtime.limits_enforceable(),
        )
        return replace(spec, **changes)  # type: ignore[arg-type]  # changes are fields by name

    async def started(self, behaviour: str) -> tuple[ContainerSpec, str]:
        spec = self.spec(behaviour)
        container_id = await self.runtime.create(spec)
        await self.runtime.start(container_id)
        return spec, container_id

    async def wait(self, container_id: str) -> ContainerState | None:
        async with asyncio.timeout(BOUND):
            return await self.runtime.wait(container_id)


@pytest.fixture
def log_directory() -> Iterator[Path]:
    """A directory where the engine, which may be another user, can write; pytest's are 0700."""
    with tempfile.TemporaryDirectory(prefix="flashpods-test-") as name:
        Path(name).chmod(0o777)
        yield Path(name)


@pytest.fixture(params=["memory", pytest.param("podman", marks=pytest.mark.system)])
async def engine(request: pytest.FixtureRequest, log_directory: Path) -> AsyncIterator[Engine]:
    if request.param == "memory":
        memory = MemoryRuntime()
        yield Engine(memory, IMAGE, log_directory, memory)
        return
    socket = request.getfixturevalue("podman_socket")
    runtime = PodmanRuntime(
        Podman(
            socket=socket,
            network="none",
            cgroup_parent=os.environ.get("FLASHPODS_TEST_CGROUP_PARENT") or None,
        )
    )
    await runtime.ping()
    before = {c.name for c in await runtime.containers()}
    yield Engine(runtime, environment("FLASHPODS_TEST_IMAGE"), log_directory, None)
    for left in await runtime.containers():
        if left.name.startswith("hpod_") and left.name not in before:
            await runtime.remove(left.id)
    await runtime.close()


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
    await engine.runtime.kill(container_id, "SIGTERM")
    state = await engine.wait(container_id)
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


# ---------------------------------------------------------------------- real Podman only


only_podman = pytest.mark.parametrize(
    "engine", [pytest.param("podman", marks=pytest.mark.system)], indirect=True
)


async def run(engine: Engine, shell: str, **changes: object) -> tuple[ContainerState, str]:
    spec = engine.spec("runs", argv=("/bin/sh", "-c", shell), **changes)
    container_id = await engine.runtime.create(spec)
    await engine.runtime.start(container_id)
    state = await engine.wait(container_id)
    assert state is not None
    return state, spec.log_path.read_text()


@only_podman
async def test_the_output_is_written_when_wait_returns(engine: Engine) -> None:
    state, log = await run(engine, "seq 1 20000; printf end; exit 7")
    assert state.exit_code == 7
    assert log.endswith("end\n")
    assert log.count(" stdout F ") == 20000


@only_podman
async def test_the_backstop_kills_and_is_told(engine: Engine) -> None:
    state, _ = await run(engine, "trap '' TERM; sleep 300", backstop_seconds=1)
    assert (state.exit_code, state.backstop_hit) == (137, True)
    listed = {c.id: c for c in await engine.runtime.containers()}[state.id]
    assert (listed.exit_code, listed.backstop_hit) == (137, True)


@only_podman
@pytest.mark.parametrize(
    ("shell", "code"),
    [("/nope", 127), ("/etc/passwd", 126), ("kill -9 $$", 137), ("kill -TERM $$", 143)],
)
async def test_exit_codes_are_the_shells(engine: Engine, shell: str, code: int) -> None:
    state, _ = await run(engine, shell)
    assert state.exit_code == code


@only_podman
async def test_the_job_has_no_privileges_and_no_host_environment(engine: Engine) -> None:
    state, log = await run(
        engine,
        "grep -E 'CapEff|CapBnd|NoNewPrivs|Seccomp:' /proc/self/status; id -u; "
        "env | grep -i _proxy",
    )
    assert state.exit_code == 1  # no proxy variable found
    for line in ("CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"):
        assert line in log
    assert "Seccomp:\t2" in log
    assert "F 0\n" not in log


@only_podman
async def test_a_wait_without_sight_of_the_process_asks_the_engine(
    engine: Engine, tmp_path: Path, podman_socket: Path
) -> None:
    blind = PodmanRuntime(Podman(socket=podman_socket, network="none"), proc=tmp_path)
    try:
        _, container_id = await engine.started("runs")
        waiting = asyncio.create_task(blind.wait(container_id))
        await engine.runtime.kill(container_id, "SIGKILL")
        async with asyncio.timeout(BOUND):
            state = await waiting
        assert state is not None
        assert state.exit_code == 137
    finally:
        await blind.close()


@only_podman
async def test_an_engine_that_goes_away_is_unavailable_and_waits_go_on(
    engine: Engine, tmp_path: Path, podman_socket: Path
) -> None:
    # The socket is reached by a link, so that the engine can be taken away from one client only.
    link = tmp_path / "podman.sock"
    link.symlink_to(podman_socket)
    client = PodmanRuntime(Podman(socket=link, network="none"), proc=tmp_path)
    try:
        _, container_id = await engine.started("runs")
        await client.ping()
        await client.close()  # drops the idle connections
        link.unlink()
        waiting = asyncio.create_task(client.wait(container_id))
        with pytest.raises(Unavailable, match="does not answer"):
            await client.inspect(container_id)
        await engine.runtime.kill(container_id, "SIGKILL")
        assert not waiting.done()
        link.symlink_to(podman_socket)
        async with asyncio.timeout(BOUND):
            state = await waiting
        assert state is not None
        assert state.exit_code == 137
    finally:
        await client.close()
