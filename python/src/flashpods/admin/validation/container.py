"""A job's container without a job: made by the product's own recipe, gone after the check.

Nothing but its life is special: labels, name, cgroup, mounts, user, network and seccomp are those
of a job of its type. So recovery and cleanup take it for a leftover and may remove it at any time;
then it is made anew.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from flashpods.adapters.files.k8sfile import HEAD_BYTES, ParserState, flush, parse
from flashpods.admin.validation.check import Failed
from flashpods.admin.validation.host import Host
from flashpods.admin.validation.tidy import to_its_end
from flashpods.config_identity import job_env, job_mounts
from flashpods.errors import FlashpodsError
from flashpods.jobs.model import container_name
from flashpods.ports import ContainerError, ContainerSpec, Limits, Mount

__all__ = ["Ended", "Probe", "inside", "run_command"]

TRIES: Final = 4
KILLED: Final = 137  # by SIGKILL, which nobody sends but who takes it for a leftover
BACKSTOP_SECONDS: Final = 60  # the engine ends it then, whatever became of us
REMOVE_SECONDS: Final = 20
MEMORY_BYTES: Final = 512 * 1024**2
SLEEP: Final = "trap 'exit 0' TERM; echo up; sleep 45 & wait"
UP_SECONDS: Final = 10
LOOK_SECONDS: Final = 0.02

T = TypeVar("T")


class _Taken(Exception):
    """Somebody removed the container while it was in use."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A running container of a check."""

    id: str
    pid: int
    log: Path


@dataclass(frozen=True, slots=True)
class Ended:
    """A container's command that has ended."""

    code: int
    lines: tuple[str, ...]

    @property
    def last(self) -> str:
        """The last line it printed, cut."""
        return self.lines[-1][:300] if self.lines else f"exit code {self.code}, no output"


async def run_command(host: Host, kind: str, command: str) -> Ended:
    """Run a shell line in a container of that type to its end.

    Raises:
        Failed: the container can't be had.
    """

    async def once() -> Ended:
        async with _started(host, kind, command) as (container_id, log):
            state = await host.runtime.wait(container_id)
            if state is None or state.exit_code in {None, KILLED}:
                raise _Taken
            assert state.exit_code is not None
            return Ended(state.exit_code, await asyncio.to_thread(_lines, log))

    return await _again(once)


async def inside(host: Host, kind: str, use: Callable[[Probe], Awaitable[T]]) -> T:
    """Give a container of that type that does nothing to ``use``, and return what that returns.

    Raises:
        Failed: the container can't be had.
    """

    async def once() -> T:
        async with _started(host, kind, SLEEP) as (container_id, log):
            await _up(host, container_id, log)
            state = await host.runtime.inspect(container_id)
            if state is None or state.pid is None:
                raise _Taken
            try:
                result = await use(Probe(container_id, state.pid, log))
            except (Failed, OSError) as e:
                await _check_running(host, container_id, e)
                raise
            await _check_running(host, container_id)
            return result

    return await _again(once)


async def _up(host: Host, container_id: str, log: Path) -> None:
    """Return when the container's own command runs.

    Its start is done before that: the runtime's process has still to put on the seccomp filter.
    """
    end = time.monotonic() + UP_SECONDS
    while not _lines(log):
        if time.monotonic() > end:
            await _check_running(host, container_id)
            raise Failed(f"the check's container did nothing for {UP_SECONDS} s after its start")
        await asyncio.sleep(LOOK_SECONDS)


async def _check_running(host: Host, container_id: str, cause: Exception | None = None) -> None:
    state = await host.runtime.inspect(container_id)
    if state is None or not state.running:
        raise _Taken from cause


async def _again(once: Callable[[], Awaitable[T]]) -> T:
    for _ in range(TRIES):
        with suppress(_Taken):
            return await once()
    raise Failed(
        f"the check's container was removed {TRIES} times while it ran",
        "journalctl -u flashpods-api -u flashpods-cleanup: who removes it?",
    )


@asynccontextmanager
async def _started(host: Host, kind: str, command: str) -> AsyncIterator[tuple[str, Path]]:
    """Start a container and remove it, whatever happens."""
    settings, runtime = host.settings, host.runtime
    uid, gid = host.user()
    await runtime.ping()
    image = host.choices.image or settings.jobs.worker.image
    await runtime.ensure_image(image, _ignore)
    # The engine's own tree: its unit may write there, and another user may not look.
    scratch = Path(tempfile.mkdtemp(prefix=".validate-", dir=settings.paths.capture.parent))
    job_id = secrets.token_hex(8)
    os.chown(scratch, uid, gid)
    spec = _spec(host, kind, command, job_id=job_id, image=image, scratch=scratch)
    # A task, so that whoever interrupts us leaves no container that is made only afterwards.
    making = asyncio.create_task(_make(host, spec))
    try:
        yield await asyncio.shield(making), spec.log_path
    finally:
        await to_its_end(_remove(host, spec.name, making, scratch))


async def _remove(host: Host, name: str, making: asyncio.Task[str], scratch: Path) -> None:
    with suppress(FlashpodsError, ContainerError, TimeoutError, _Taken):
        async with asyncio.timeout(REMOVE_SECONDS):
            with suppress(FlashpodsError, ContainerError, _Taken):
                await making
            await host.runtime.remove(name)
    shutil.rmtree(scratch, ignore_errors=True)


async def _make(host: Host, spec: ContainerSpec) -> str:
    try:
        container_id = await host.runtime.create(spec)
        await host.runtime.start(container_id)
    except ContainerError as e:
        if await host.runtime.inspect(spec.name) is None:
            raise _Taken from e
        raise
    return container_id


def _spec(
    host: Host, kind: str, command: str, *, job_id: str, image: str, scratch: Path
) -> ContainerSpec:
    settings = host.settings
    mounts = {target: Path(source) for target, source in settings.podman.mounts.items()}
    mounts |= job_mounts(settings.identity)
    return ContainerSpec(
        job_id=job_id,
        job_type=kind,
        name=container_name(job_id),
        image=image,
        argv=("/bin/sh", "-c", command),
        env={**job_env(settings.identity), "FLASHPODS_JOB_ID": job_id, "HOME": "/tmp"},  # noqa: S108 - its own
        workdir="/",
        mounts=tuple(
            Mount(source=source, target=target, read_only=True) for target, source in mounts.items()
        ),
        limits=Limits(cpus=1, memory_bytes=MEMORY_BYTES, pids=256),
        backstop_seconds=BACKSTOP_SECONDS,
        log_path=scratch / "raw",
        enforce_limits=host.runtime.limits_enforceable(),
    )


async def _ignore(_: str) -> None:
    """Let a pull's progress go by: the check's time bounds it."""


def _lines(log: Path) -> tuple[str, ...]:
    """Return what the container printed, both streams, without the engine's heads."""
    lines, state = parse(log.read_bytes() if log.exists() else b"", ParserState())
    texts = (line[HEAD_BYTES:] for line in (*lines, *flush(state)))
    return tuple(text.decode(errors="replace") for text in texts if text.strip())
