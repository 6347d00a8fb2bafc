"""A container engine in memory, with scripted containers.

A test says beforehand how a container will behave (:class:`Script`), or moves it along by hand
(:meth:`MemoryRuntime.exit`, :meth:`MemoryRuntime.hit_backstop`, :meth:`MemoryRuntime.vanish`).
The engine outlives the use cases under test, as the real one does: to play a crash of the API,
make new use cases over the same runtime.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from flashpods.errors import Unavailable
from flashpods.jobs.model import container_name
from flashpods.ports import ContainerError, ContainerSpec, ContainerState, ImageError, Limits

IMAGE: Final = "localhost/flashpods/base:dev"
SIGKILL_CODE: Final = 137
SIGTERM_CODE: Final = 143


def simple_spec(job_id: str) -> ContainerSpec:
    """Describe the smallest container of a job; ``dataclasses.replace`` changes the rest."""
    return ContainerSpec(
        job_id=job_id,
        job_type="worker",
        name=container_name(job_id),
        image=IMAGE,
        argv=("true",),
        env={},
        workdir="/work",
        mounts=(),
        limits=Limits(cpus=1, memory_bytes=1024**3, pids=2048),
        backstop_seconds=100,
        log_path=Path("/nonexistent/capture.log"),
        enforce_limits=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """How a container behaves. The default runs until it is signalled."""

    exits: int | None = None  # ends with this code as soon as it is started
    oom_killed: bool = False  # says so when it ends
    ignores_sigterm: bool = False
    create_error: str | None = None  # create raises ContainerError with it
    start_error: str | None = None  # start raises ContainerError with it
    enforced: bool = True  # False: limits() finds none, whatever was asked
    limits: Limits | None = None  # what limits() finds instead of what was asked
    on_start: Callable[[ContainerSpec], None] | None = None  # e.g. write to log_path or a mount


@dataclass(slots=True)
class _Container:
    spec: ContainerSpec
    script: Script
    state: ContainerState
    signals: list[str] = field(default_factory=list)


class MemoryRuntime:
    """The in-memory :class:`~flashpods.ports.ContainerRuntime`.

    Attributes:
        up: False plays an engine that does not answer; set it with :meth:`set_up`.
        images: what is present; ``registry`` is what a pull can bring.
        scripts: container name → script; ``default`` for the others.
        enforceable: what :meth:`limits_enforceable` answers.
        created, emptied, removed: the names, in order, each time it really happened.
        pulls: the images pulled.
    """

    def __init__(
        self,
        *,
        images: Iterable[str] = (IMAGE,),
        registry: Iterable[str] = (),
        default: Script | None = None,
        enforceable: bool = True,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Make an engine that is up and holds no container."""
        self.up = True
        self.images = set(images)
        self.registry = set(registry)
        self.scripts: dict[str, Script] = {}
        self.default = default or Script()
        self.enforceable = enforceable
        self.created: list[str] = []
        self.emptied: list[str] = []
        self.removed: list[str] = []
        self.left: set[str] = set()  # what removals that were cut short left beside the engine
        self.pulls: list[str] = []
        self.pull_error: ImageError | None = None
        self._now = now
        self._containers: dict[str, _Container] = {}  # by name
        self._changed = asyncio.Event()
        self._serial = 0

    # ------------------------------------------------------------------ for tests

    def set_up(self, up: bool) -> None:
        """Take the engine away, or bring it back; containers live on."""
        self.up = up
        self._wake()

    def exit(self, name: str, code: int | None, *, oom_killed: bool = False) -> None:
        """End a running container; None plays an engine that lost the status."""
        self._end(self._containers[name], code, oom_killed=oom_killed)

    def hit_backstop(self, name: str) -> None:
        """End it as the engine's own timeout does."""
        self._end(self._containers[name], SIGKILL_CODE, backstop_hit=True)

    def vanish(self, name: str) -> None:
        """Lose it without a trace."""
        del self._containers[name]
        self._wake()

    def reboot(self) -> None:
        """Lose every process: Podman then calls what was running ``created``."""
        for found in self._containers.values():
            if not found.state.exited:
                found.state = replace(found.state, status="created", pid=None)
        self._wake()

    def signals(self, name: str) -> list[str]:
        """Return the signals that reached the container."""
        return list(self._containers[name].signals)

    def spec(self, name: str) -> ContainerSpec:
        """Return what the container was created from."""
        return self._containers[name].spec

    async def until(self, name: str, status: str | None, *, within: float = 5) -> None:
        """Return once the container has that status (None: once it is gone).

        Raises:
            TimeoutError: it did not happen within so many seconds.
        """
        async with asyncio.timeout(within):
            while (found := self._containers.get(name)) is None or found.state.status != status:
                if found is None and status is None:
                    return
                await self._changed.wait()

    # ------------------------------------------------------------------ the port

    async def close(self) -> None:
        """Do nothing."""

    async def ping(self) -> None:
        """Return when the engine answers."""
        await self._answer()

    async def ensure_image(self, image: str, progress: Callable[[str], Awaitable[None]]) -> None:
        """Have the image here, from the registry if need be."""
        await self._answer()
        if image in self.images:
            return
        if image.startswith("localhost/") or (
            self.pull_error is None and image not in self.registry
        ):
            raise ImageError("image_not_found", f"the image {image} is not to be had")
        await progress(f"Trying to pull {image}...")
        if self.pull_error is not None:
            raise self.pull_error
        self.pulls.append(image)
        self.images.add(image)

    def limits_enforceable(self) -> bool:
        """Return what the test has set."""
        return self.enforceable

    async def create(self, spec: ContainerSpec) -> str:
        """Create and initialise, or return the one that is there."""
        await self._answer()
        if found := self._containers.get(spec.name):
            if found.spec.job_id != spec.job_id:
                raise ContainerError(f"the name {spec.name} belongs to another job's container")
            return found.state.id
        script = self.scripts.get(spec.name, self.default)
        if script.create_error:
            raise ContainerError(script.create_error)
        if spec.image not in self.images:
            raise Unavailable(f"cannot create {spec.name}: {spec.image}: image not known")
        if spec.enforce_limits and not self.enforceable:
            raise ContainerError(f"cannot initialise {spec.name}: no memory controller")
        self._serial += 1
        state = ContainerState(
            id=f"{self._serial:064x}",
            name=spec.name,
            job_id=spec.job_id,
            status="initialized",
            pid=100_000 + self._serial,
            exit_code=None,
            oom_killed=False,
            backstop_hit=False,
            started_at=None,
            finished_at=None,
        )
        self._containers[spec.name] = _Container(spec, script, state)
        self.created.append(spec.name)
        self._wake()
        return state.id

    async def limits(self, container_id: str) -> Limits | None:
        """Return what was asked, or what the script says."""
        await self._answer()
        found = self._find(container_id)
        if found is None or found.state.exited:
            return None
        if not (found.script.enforced and found.spec.enforce_limits):
            return None
        return found.script.limits or found.spec.limits

    async def start(self, container_id: str) -> None:
        """Let it run, as its script says."""
        await self._answer()
        found = self._find(container_id)
        if found is None:
            raise ContainerError(f"there is no container {container_id[:12]} to start")
        if found.state.status != "initialized":
            return
        if found.script.start_error:
            raise ContainerError(found.script.start_error)
        found.state = replace(found.state, status="running", started_at=self._now())
        if found.script.on_start:
            found.script.on_start(found.spec)
        self._wake()
        if found.script.exits is not None:
            self._end(found, found.script.exits)

    async def inspect(self, name_or_id: str) -> ContainerState | None:
        """Return its state."""
        await self._answer()
        found = self._find(name_or_id)
        return found.state if found else None

    async def awaited(self, name: str) -> ContainerState | None:
        """Return what is known; this engine does nothing late."""
        return await self.inspect(name)

    async def wait(self, container_id: str) -> ContainerState | None:
        """Return once it is dead or gone; an engine that is away is waited for."""
        while True:
            found = self._find(container_id)
            if self.up and (found is None or found.state.exited):
                await asyncio.sleep(0)
                return found.state if found else None
            await self._changed.wait()

    async def kill(self, container_id: str, signal: str) -> None:
        """Deliver the signal to a running container."""
        await self._answer()
        found = self._find(container_id)
        if found is None or not found.state.running:
            return
        found.signals.append(signal)
        if signal == "SIGKILL":
            self._end(found, SIGKILL_CODE)
        elif not found.script.ignores_sigterm:
            self._end(found, SIGTERM_CODE)

    async def remove(self, name_or_id: str) -> None:
        """Kill and remove."""
        await self._answer()
        found = self._find(name_or_id)
        self.left.discard(found.spec.name if found else name_or_id)
        if found is None:
            return
        self._end(found, SIGKILL_CODE)
        del self._containers[found.spec.name]
        self.removed.append(found.spec.name)
        self._wake()

    async def empty(self, name_or_id: str) -> None:
        """Note that a dead container's own files went."""
        await self._answer()
        found = self._find(name_or_id)
        if found is not None and found.state.exited:
            self.emptied.append(found.spec.name)

    async def remnants(self) -> list[str]:
        """Return the names of those that are there, and of ``left``."""
        await self._answer()
        return sorted({*self._containers, *self.left})

    async def containers(self) -> list[ContainerState]:
        """Return them all; like the engine's list, without ``oom_killed``."""
        await self._answer()
        return [replace(c.state, oom_killed=False) for c in self._containers.values()]

    async def trim_images(self, budget_bytes: int) -> int:
        """Remove unused images beyond the budget; here each takes one byte."""
        await self._answer()
        used = {c.spec.image for c in self._containers.values()}
        unused = sorted(i for i in self.images - used if not i.startswith("localhost/"))
        gone = unused[: max(len(self.images) - budget_bytes, 0)]
        self.images -= set(gone)
        return len(gone)

    # ------------------------------------------------------------------ inside

    async def _answer(self) -> None:
        await asyncio.sleep(0)  # every real call lets others run
        if not self.up:
            raise Unavailable("Podman does not answer at memory: Connection refused")

    def _find(self, name_or_id: str) -> _Container | None:
        if name_or_id in self._containers:
            return self._containers[name_or_id]
        return next((c for c in self._containers.values() if c.state.id == name_or_id), None)

    def _end(
        self,
        found: _Container,
        code: int | None,
        *,
        oom_killed: bool = False,
        backstop_hit: bool = False,
    ) -> None:
        if found.state.exited:
            return
        found.state = replace(
            found.state,
            status="exited",
            pid=None,
            exit_code=code,
            oom_killed=oom_killed or found.script.oom_killed,
            backstop_hit=backstop_hit,
            finished_at=self._now(),
        )
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
