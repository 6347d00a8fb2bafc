"""From ``pending`` to ``running``: workspace, image, container, limits, start.

Every step may be repeated, so a crash or an engine that is away for a while is met by doing the
steps again. The command does not execute before the container's limits have been read back.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Coroutine
from pathlib import Path

import structlog

from flashpods import failpoints
from flashpods.errors import InsufficientStorage, Unavailable
from flashpods.jobs.line import CancelRequested, JobFailed, Line
from flashpods.jobs.model import Job, JobType, Phase, container_name
from flashpods.jobs.states import JobStatus, Trigger
from flashpods.ports import ContainerError, ContainerSpec, ImageError, Limits, Mount

log = structlog.get_logger(__name__)

GIB = 1024**3
FIRST_BACKOFF, MOST_BACKOFF = 0.2, 2.0  # seconds between tries while the engine is away

LOOSE = "limits are not enforced on this development machine: cpus, memory, pids"

# One pipe for both streams: only so do they reach the log in the order they were written.
_WORKER_ARGV = ("/bin/sh", "-c", 'exec 2>&1; exec /bin/sh -c "$1"', "sh")
_AGENT_ARGV = ("/bin/sh", "-c", "exec /entrypoint.sh 2>&1")


async def launch(line: Line, job: Job, cancel: asyncio.Event, slots: Slots) -> Job:
    """Bring a ``pending`` or half-launched ``starting`` job to ``running``.

    Args:
        line: the ports.
        job: the row.
        cancel: set when the caller asks for the job's end.
        slots: how many containers may be made at once; not held while an image is pulled.

    Raises:
        JobFailed: ``upload_lost``, an image error, ``container_create_failed``,
            ``limits_not_enforced``, ``insufficient_storage``, ``launch_failed``,
            ``stuck_in_starting``.
        CancelRequested: ``cancel`` was set before the command executed.
    """
    slot = Slot(slots)
    try:
        await unless(cancel, slot.take())
        if cancel.is_set():
            raise CancelRequested
        if job.status is JobStatus.PENDING:
            failpoints.hit("launch.before_starting")
            job = await line.advance(job, Trigger.LAUNCH, "launch slot free", phase=Phase.CREATING)
            failpoints.hit("launch.after_starting")
        async with asyncio.timeout(await _time_left(line, job)):
            return await _persist(line, job, cancel, slot)
    except TimeoutError:
        why = f"not running after {line.policy.starting:.0f} seconds"
        row = await line.store.get(job.id)
        if row is not None and row.phase is Phase.PULLING:
            why += f": the image {job.image} is still on its way"
        raise JobFailed("stuck_in_starting", why) from None
    finally:
        slot.give()


class Slots:
    """How many containers may be made at once; once they are closed, no other is begun."""

    def __init__(self, count: int) -> None:
        """All are free."""
        self._free = asyncio.Semaphore(count)
        self._taken = 0
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def acquire(self) -> None:
        """Wait for one; where they are closed, until the caller's task is cancelled."""
        await self._free.acquire()
        if self._closed:
            self._free.release()
            await asyncio.Event().wait()
        self._taken += 1
        self._idle.clear()

    def release(self) -> None:
        """Give one back."""
        self._taken -= 1
        if self._taken == 0:
            self._idle.set()
        self._free.release()

    def close(self) -> None:
        """Give out no more."""
        self._closed = True

    async def idle(self) -> None:
        """Return when none is taken."""
        await self._idle.wait()


class Slot:
    """A place among those that make containers at once; given up while an image is pulled."""

    def __init__(self, slots: Slots) -> None:
        """Hold nothing yet."""
        self._slots = slots
        self._held = False

    async def take(self) -> None:
        """Wait for a place; holding one already: nothing."""
        if not self._held:
            await self._slots.acquire()
            self._held = True

    def give(self) -> None:
        """Give the place up; holding none: nothing."""
        if self._held:
            self._held = False
            self._slots.release()


async def _time_left(line: Line, job: Job) -> float:
    """Return the seconds that the job may still be ``starting``, whoever began its launch."""
    since = [e.at for e in await line.store.events(job.id) if e.to_status is JobStatus.STARTING]
    spent = (line.clock.now() - since[-1]).total_seconds() if since else 0.0
    return max(line.policy.starting - max(spent, 0.0), 0.0)


async def _persist(line: Line, job: Job, cancel: asyncio.Event, slot: Slot) -> Job:
    """Repeat the steps while the engine does not answer; the caller's deadline ends it."""
    backoff = FIRST_BACKOFF
    while True:
        try:
            return await _steps(line, job, cancel, slot)
        except Unavailable as e:
            log.warning("launch_waits_for_engine", job_id=job.id, reason=e.message)
        except InsufficientStorage as e:
            raise JobFailed("insufficient_storage", e.message) from e
        except OSError as e:
            full = e.errno in {errno.ENOSPC, errno.EDQUOT}
            raise JobFailed("insufficient_storage" if full else "launch_failed", str(e)) from e
        await unless(cancel, line.clock.sleep(backoff))
        await unless(cancel, slot.take())  # a pull that broke off had given it up
        backoff = min(backoff * 2, MOST_BACKOFF)


async def _steps(line: Line, job: Job, cancel: asyncio.Event, slot: Slot) -> Job:
    workspace = await line.workspaces.claim(job.files_id, job.id)
    if workspace is None:
        raise JobFailed("upload_lost", f"the tree of {job.files_id} is gone")
    failpoints.hit("launch.after_claim")
    await _have_image(line, job, cancel, slot)
    failpoints.hit("launch.after_image")
    enforce = line.runtime.limits_enforceable()
    if not (enforce or line.policy.allow_unenforced_limits):
        raise JobFailed("limits_not_enforced", "this host has no controllers for the job's limits")
    container_id = await _contain(line, job, workspace, cancel, enforce=enforce)
    job = await line.advance(
        job, Trigger.STARTED, f"container {container_id[:12]} started", container_id=container_id
    )
    failpoints.hit("launch.after_started")
    return job


async def _contain(
    line: Line, job: Job, workspace: Path, cancel: asyncio.Event, *, enforce: bool
) -> str:
    """Create the container, read its limits back, let the command execute; return the id."""
    try:
        spec = await _spec(line, job, workspace, enforce=enforce)
        failpoints.hit("launch.before_create")
        container_id = await line.runtime.create(spec)
        failpoints.hit("launch.after_create")
        if enforce:
            await _check_limits(line, job, container_id)
        if cancel.is_set():
            raise CancelRequested
        failpoints.hit("launch.before_start")
        if not enforce:
            await line.warn(job, [LOOSE])  # not beside the start: were it to fail, that would go on
        await line.runtime.start(container_id)
    except ContainerError as e:
        raise JobFailed("container_create_failed", str(e)) from e
    failpoints.hit("launch.after_start")
    return container_id


async def _have_image(line: Line, job: Job, cancel: asyncio.Event, slot: Slot) -> None:
    pulling = False

    async def progress(text: str) -> None:
        nonlocal pulling
        if not pulling:
            pulling = True
            slot.give()
            await line.show(job, Phase.PULLING)
        await line.logs.write(job.id, text, at=line.clock.now())

    try:
        await unless(cancel, line.runtime.ensure_image(job.image, progress))
    except ImageError as e:
        await line.logs.write(job.id, f"[flashpods] {e}", at=line.clock.now())
        raise JobFailed(e.code, str(e)) from e
    if pulling:
        await unless(cancel, slot.take())
        await line.show(job, Phase.CREATING)


async def unless(cancel: asyncio.Event, work: Coroutine[object, object, object]) -> None:
    """Await ``work``, but give it up when ``cancel`` is set.

    Raises:
        CancelRequested: it was given up.
    """
    task = asyncio.create_task(work)
    waiter = asyncio.create_task(cancel.wait())
    try:
        await asyncio.wait({task, waiter}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise CancelRequested
        task.result()
    finally:
        for t in (task, waiter):
            t.cancel()
        await asyncio.gather(task, waiter, return_exceptions=True)


async def _spec(line: Line, job: Job, workspace: Path, *, enforce: bool) -> ContainerSpec:
    env = {**line.policy.env, "FLASHPODS_JOB_ID": job.id, "HOME": "/tmp"}  # noqa: S108 - its own
    argv: tuple[str, ...]
    if job.type is JobType.AGENT:
        argv = _AGENT_ARGV
        env |= {
            **line.policy.agent_env,
            "FLASHPODS_TASK": job.task or "",
            "FLASHPODS_CONTEXT": job.context or "",
            "FLASHPODS_GIT_BRANCH": job.git_branch or "",
        }
    else:
        argv = (*_WORKER_ARGV, job.command or "")
    artifacts = await line.artifacts.prepare(job.id)
    policy = line.policy
    return ContainerSpec(
        job_id=job.id,
        job_type=job.type.value,
        name=container_name(job.id),
        image=job.image,
        argv=argv,
        env=env,
        workdir="/work",
        mounts=(
            Mount(source=workspace, target="/work", read_only=job.type is JobType.WORKER),
            Mount(source=artifacts, target="/artifacts", read_only=False),
            *(
                Mount(source=source, target=target, read_only=True)
                for target, source in policy.mounts.items()
            ),
        ),
        limits=wanted_limits(job, policy.pids),
        backstop_seconds=int(job.timeout_minutes * 60 + policy.grace + policy.backstop_slack),
        log_path=await asyncio.to_thread(line.logs.capture_path, job.id),
        enforce_limits=enforce,
    )


def wanted_limits(job: Job, pids: int) -> Limits:
    """Return the limits that the job was promised."""
    return Limits(cpus=job.cpus, memory_bytes=job.memory_gb * GIB, pids=pids)


async def _check_limits(line: Line, job: Job, container_id: str) -> None:
    """Compare what the cgroup enforces with what was promised, before the command executes."""
    wanted = wanted_limits(job, line.policy.pids)
    actual = await line.runtime.limits(container_id)
    if actual is not None and (
        actual.cpus <= wanted.cpus
        and actual.memory_bytes <= wanted.memory_bytes
        and actual.pids <= wanted.pids
    ):
        return
    state = await line.runtime.inspect(container_id) if actual is None else None
    if state is not None and state.exited:
        return  # a start whose answer was lost: it was checked before that, and has run
    if not line.policy.allow_unenforced_limits:
        found = "none" if actual is None else f"{actual}"
        raise JobFailed("limits_not_enforced", f"promised {wanted}, the cgroup enforces {found}")
    await line.warn(job, [LOOSE])
