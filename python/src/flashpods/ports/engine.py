"""The port of the container engine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A bind mount; ``source`` is a host path."""

    source: Path
    target: str
    read_only: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a container may use. ``memory_bytes`` includes swap: there is none beside it."""

    cpus: int
    memory_bytes: int
    pids: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """All that the engine needs; the labels are always written by the adapter from these fields."""

    job_id: str
    job_type: str
    name: str
    image: str
    argv: tuple[str, ...]
    env: dict[str, str]
    workdir: str
    mounts: tuple[Mount, ...]
    limits: Limits
    backstop_seconds: int  # the engine kills the container then, whether or not we are up
    log_path: Path  # where the engine writes the raw output
    enforce_limits: bool  # False: do not ask for limits that this host cannot enforce


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerState:
    """A container as the engine sees it."""

    id: str
    name: str
    job_id: str
    status: str  # created, initialized, running, exited (every dead state is "exited")
    pid: int | None
    exit_code: int | None  # when exited: 137 after the backstop, None where its status was lost
    oom_killed: bool
    backstop_hit: bool
    started_at: datetime | None
    finished_at: datetime | None
    layer: Path | None = None  # the host's directory of what it has written to its own root

    @property
    def running(self) -> bool:
        """Whether its command executes."""
        return self.status == "running"

    @property
    def exited(self) -> bool:
        """Whether it has run and is dead."""
        return self.status == "exited"


class ImageError(Exception):
    """The image is not to be had; ``code`` is ``image_not_found`` or ``image_pull_failed``."""

    def __init__(self, code: str, message: str) -> None:
        """Keep the code beside the message."""
        super().__init__(message)
        self.code = code


class ContainerError(Exception):
    """The engine refused a container for good (not for lack of time); the job fails with it."""


class ContainerRuntime(Protocol):
    """A container engine. Every call has a deadline and raises Unavailable when it passes."""

    async def ping(self) -> None:
        """Return when the engine answers."""
        ...

    async def ensure_image(self, image: str, progress: Callable[[str], Awaitable[None]]) -> None:
        """Have the image here, pulling it if needed; ``progress`` gets lines for the job's log.

        Raises ImageError. A repeated call is cheap.
        """
        ...

    def limits_enforceable(self) -> bool:
        """Whether this host has the controllers that hold CPU, memory and PID limits.

        Raises Unavailable until the engine has answered a ``ping`` or ``ensure_image``.
        """
        ...

    async def create(self, spec: ContainerSpec) -> str:
        """Create and initialise the container (its cgroup exists, its command does not run yet).

        Repeated: the container of that name and job is returned, whatever its state; but one that
        an engine killed meanwhile left half made, so that its command can't have run, is removed
        and Unavailable raised, and the next call makes it anew.
        Raises ContainerError; Unavailable also when the image has just gone: have it again.
        """
        ...

    async def limits(self, container_id: str) -> Limits | None:
        """Read the limits back from the container's cgroup; None where there are none."""
        ...

    async def start(self, container_id: str) -> None:
        """Let the command execute. On a running or exited container it does nothing.

        Raises ContainerError.
        """
        ...

    async def inspect(self, name_or_id: str) -> ContainerState | None:
        """Return what the engine knows; None if there is no such container."""
        ...

    async def awaited(self, name: str) -> ContainerState | None:
        """As :meth:`inspect`, of a container that a process before this one may have asked for.

        An engine that stood still does what it was asked when it goes on, though nobody waits for
        it any more: so it gets a moment before there is said to be none.
        """
        ...

    async def wait(self, container_id: str) -> ContainerState | None:
        """Return once the container is dead and its output is written; None if it vanished.

        The one call without a deadline: it lasts as long as the job and survives an engine that
        restarts; the caller cancels it.
        """
        ...

    async def kill(self, container_id: str, signal: str) -> None:
        """Send ``SIGTERM`` to PID 1, or ``SIGKILL`` to all; a no-op on a dead or absent one."""
        ...

    async def remove(self, name_or_id: str) -> None:
        """Kill and remove, with what there is of it beside the engine; absent is fine."""
        ...

    async def empty(self, name_or_id: str) -> None:
        """Free what a dead container wrote to a file system of its own; it stays.

        It needs no space on the disk, as a removal may. Running or absent: nothing.
        """
        ...

    async def remnants(self) -> list[str]:
        """Return names of containers, present or not, that have something beside the engine.

        A removal that was cut short leaves it; :meth:`remove` by that name takes it away.
        """
        ...

    async def containers(self) -> list[ContainerState]:
        """Return every container with the label ``flashpods-job=true``, in any state."""
        ...

    async def trim_images(self, budget_bytes: int) -> int:
        """Remove the oldest unused images beyond the budget; return how many went.

        Images with the label ``flashpods-keep=true`` and ``localhost/`` images stay.
        """
        ...
