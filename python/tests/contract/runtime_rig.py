"""The two engines of the ContainerRuntime's contract, with behaviours that both know by name."""

from __future__ import annotations

import asyncio
import os
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from flashpods.adapters.podman.runtime import PodmanRuntime
from flashpods.config import Podman
from flashpods.ports import ContainerRuntime, ContainerSpec, ContainerState, Limits
from flashpods.testing.runtime import IMAGE, MemoryRuntime, Script

LIMITS = Limits(cpus=1, memory_bytes=256 * 1024**2, pids=64)
BOUND = 120  # seconds, for anything that should take milliseconds

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


@contextmanager
def log_directory() -> Iterator[Path]:
    """Give a directory where the engine, maybe another user, can write; pytest's are 0700."""
    with tempfile.TemporaryDirectory(prefix="flashpods-test-") as name:
        Path(name).chmod(0o777)
        yield Path(name)


@asynccontextmanager
async def memory_engine() -> AsyncIterator[Engine]:
    """Give the engine in memory."""
    memory = MemoryRuntime()
    with log_directory() as logs:
        yield Engine(memory, IMAGE, logs, memory)


@asynccontextmanager
async def podman_engine() -> AsyncIterator[Engine]:
    """Give the stack's Podman; what its test leaves there goes with it."""
    runtime = PodmanRuntime(
        Podman(
            socket=Path(environment("FLASHPODS_TEST_PODMAN_SOCKET")),
            network="none",
            cgroup_parent=os.environ.get("FLASHPODS_TEST_CGROUP_PARENT") or None,
        )
    )
    try:
        await runtime.ping()
        before = {c.name for c in await runtime.containers()}
        with log_directory() as logs:
            yield Engine(runtime, environment("FLASHPODS_TEST_IMAGE"), logs, None)
            for left in await runtime.containers():
                if left.name.startswith("hpod_") and left.name not in before:
                    await runtime.remove(left.id)
    finally:
        await runtime.close()


ENGINES = {"memory": memory_engine, "podman": podman_engine}
