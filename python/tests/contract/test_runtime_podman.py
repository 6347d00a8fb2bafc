"""What only real Podman shows of its runtime: output, backstop, privileges, its absence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from runtime_rig import BOUND, Engine, environment, podman_engine

from flashpods.adapters.podman.runtime import PodmanRuntime
from flashpods.config import Podman
from flashpods.errors import Unavailable
from flashpods.ports import ContainerState

pytestmark = pytest.mark.system


@pytest.fixture
def podman_socket() -> Path:
    return Path(environment("FLASHPODS_TEST_PODMAN_SOCKET"))


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    async with podman_engine() as found:
        yield found


async def run(engine: Engine, shell: str, **changes: object) -> tuple[ContainerState, str]:
    spec = engine.spec("runs", argv=("/bin/sh", "-c", shell), **changes)
    container_id = await engine.runtime.create(spec)
    await engine.runtime.start(container_id)
    state = await engine.wait(container_id)
    assert state is not None
    return state, spec.log_path.read_text()


async def test_the_output_is_written_when_wait_returns(engine: Engine) -> None:
    state, log = await run(engine, "seq 1 20000; printf end; exit 7")
    assert state.exit_code == 7
    assert log.endswith("end\n")
    assert log.count(" stdout F ") == 20000


async def test_the_backstop_kills_and_is_told(engine: Engine) -> None:
    state, _ = await run(engine, "trap '' TERM; sleep 300", backstop_seconds=1)
    assert (state.exit_code, state.backstop_hit) == (137, True)
    listed = {c.id: c for c in await engine.runtime.containers()}[state.id]
    assert (listed.exit_code, listed.backstop_hit) == (137, True)


@pytest.mark.parametrize(
    ("shell", "code"),
    [("/nope", 127), ("/etc/passwd", 126), ("kill -9 $$", 137), ("kill -TERM $$", 143)],
)
async def test_exit_codes_are_the_shells(engine: Engine, shell: str, code: int) -> None:
    state, _ = await run(engine, shell)
    assert state.exit_code == code


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
