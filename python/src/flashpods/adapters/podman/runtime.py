"""The :class:`~flashpods.ports.ContainerRuntime` over rootless Podman's REST socket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

from flashpods import failpoints
from flashpods.adapters.files.tree_helper import TreeHelper
from flashpods.adapters.podman import stored
from flashpods.adapters.podman.cgroups import (
    CGROUPS,
    PROC,
    all_wait,
    belongs,
    cgroup_of,
    children,
    emptied,
    first_process,
    read_limits,
    remove_parent,
    waits_for_start,
)
from flashpods.adapters.podman.deaths import DeathWatch
from flashpods.adapters.podman.engine import Probe
from flashpods.adapters.podman.images import Images, Progress
from flashpods.adapters.podman.library import Library
from flashpods.adapters.podman.look import NoRoom, Unshown, containers, inspect
from flashpods.adapters.podman.refusals import refusal
from flashpods.adapters.podman.rest import Answer, RestClient, Seen
from flashpods.adapters.podman.spec import LOG_MAX_BYTES, Engine, cgroup_parent, create_request
from flashpods.adapters.podman.turns import Turns
from flashpods.config import Podman
from flashpods.errors import Unavailable
from flashpods.ports import ContainerError, ContainerSpec, ContainerState, Limits

CALLS: Final = 16
"""Short calls at once; each is a connection, and the engine works on its own locks anyway."""
NOTICE_SECONDS, NOTICE_LOOK = 2.0, 0.05
"""Seconds that the engine gets to notice a death or a create of its own, and between looks."""
CREATE_SECONDS: Final = 600.0  # then the next create is made, whatever became of this one
EASE_SECONDS: Final = 60.0  # what is not done by then is done by the next try
FRESH: Final = 256  # containers remembered between create, start and wait
WAITS: Final = 256
"""Long calls at once; only containers whose process is not to be seen need one."""


class PodmanRuntime:
    """Runs containers; every method's contract is the port's."""

    def __init__(
        self,
        settings: Podman,
        *,
        log_max_bytes: int = LOG_MAX_BYTES,
        seen: Seen = lambda _method, _path, _status, _seconds: None,
        cgroups: Path = CGROUPS,
        proc: Path = PROC,
    ) -> None:
        """Open nothing yet.

        Args:
            settings: the socket, the network, the deadlines.
            log_max_bytes: the size at which the engine starts a container's log file anew.
            seen: is told of the calls; see :class:`RestClient`.
            cgroups: where the cgroup v2 tree is mounted.
            proc: where processes are to be seen.
        """
        self._settings = settings
        self._log_max_bytes = log_max_bytes
        self._cgroups = cgroups
        self._proc = proc
        self._rest = RestClient(
            settings.socket,
            call_seconds=settings.call_seconds,
            calls=CALLS,
            waits=WAITS,
            seen=seen,
        )
        self._images = Images(self._rest, idle_seconds=settings.pull_idle_seconds)
        self._library = Library(settings)
        self._trees = TreeHelper()
        self._engine: Engine | None = None
        self._asking = Probe(self._rest, settings)
        # Of two keep-id creates at once Podman 5.4.2 gives some a map of one id, with which crun
        # fails, 4.3.1 none at all, and the service of both may die: podman issue 23264,
        # containers/storage issue 2030.
        self._creates = Turns[Answer](settings.call_seconds, settings.socket)
        self._starting: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._fresh: dict[str, str] = {}  # id → name of what we initialised and nobody started
        self._started: dict[str, str] = {}  # the same of what we started and nobody waits for

    async def close(self) -> None:
        """Give up pulls and close connections; containers run on."""
        await self._images.close()
        await self._creates.close()
        await self._asking.close()
        await self._rest.close()
        await self._trees.close()

    async def ping(self) -> None:
        """Return when the engine answers; the first time it is also asked what it can do."""
        answer = await self._rest.call("GET", "/_ping")
        if not answer.ok:
            raise Unavailable(f"Podman is not well: {answer.message}")
        await self._probe()

    async def ensure_image(self, image: str, progress: Progress) -> None:
        """Have the image here; see the port."""
        await self._probe()
        await self._images.ensure(image, progress)

    def limits_enforceable(self) -> bool:
        """Whether the engine has the controllers; known from the first ping or image on.

        Raises:
            Unavailable: it has not answered yet.
        """
        if self._engine is None:
            raise Unavailable("Podman has not answered yet; ping it first")
        return self._engine.enforces

    async def create(self, spec: ContainerSpec) -> str:
        """Create and initialise the container; see the port."""
        engine = await self._probe()
        request = create_request(spec, self._settings, engine, log_max_bytes=self._log_max_bytes)
        answer = await self._creates.take(
            lambda: self._rest.call(
                "POST", "/containers/create", body=request, deadline=CREATE_SECONDS
            )
        )
        if answer.ok:
            container_id: str = answer.json()["Id"]
            failpoints.hit("engine.before_init")
            await self._initialise(container_id)
            _remember(self._fresh, container_id, spec.name)
            return container_id
        self._images.forget(spec.image)
        # The name may be taken: 500 in Podman 4, 409 since 5. Look, rather than read the message.
        taken = "in use" in answer.message
        found = await (self._noticed(spec.name) if taken else self.inspect(spec.name))
        if found is None:
            if taken and (await self._delete(spec.name)).ok:
                # A service killed within "create" left the name in its storage, no container.
                raise Unavailable(f"{spec.name} was left half made; it is made anew")
            raise refusal(answer, f"cannot create {spec.name}")
        if found.job_id != spec.job_id or found.name != spec.name:
            raise ContainerError(
                f"the name {spec.name} belongs to a container of another job: {found.id[:12]}"
            )
        if found.status == "created":
            await self._initialise_found(found)
        return found.id

    async def _noticed(self, name: str) -> ContainerState | None:
        """Inspect what has the name, which an earlier create that nobody waits for may be making.

        It is in the engine's storage first. To delete it there leaves half a container (look.py).
        """
        for _ in range(int(NOTICE_SECONDS / NOTICE_LOOK)):
            if (found := await self.inspect(name)) is not None:
                return found
            await asyncio.sleep(NOTICE_LOOK)
        return None

    async def _initialise_found(self, found: ContainerState) -> None:
        """Initialise a container that an earlier call created; make way if it is half made.

        A service that was killed within "init" leaves a container that the OCI runtime has and the
        engine does not know of: it can be neither initialised nor started. Nor can one without its
        storage (look.py). The engine notes a process before it lets anybody start it, so without
        one the command has not run.
        """
        try:
            await self._initialise(found.id)
        except ContainerError as e:
            later = await self.inspect(found.id)
            if later is not None and later.status != "created":
                return  # an earlier call, whose answer nobody waited for, has got there
            if found.started_at is not None or not await self._all_wait(found.name):
                raise
            await self.remove(found.id)
            raise Unavailable(f"{found.name} was left half made; it is made anew: {e}") from e

    async def _all_wait(self, name: str) -> bool:
        """Whether no process of the container has gone beyond the OCI runtime."""
        parent = cgroup_parent(self._settings, name)
        if parent is None:
            return True
        return await asyncio.to_thread(all_wait, parent, root=self._cgroups, proc=self._proc)

    async def limits(self, container_id: str) -> Limits | None:
        """Read the limits back from the cgroup; see the port."""
        name = self._fresh.get(container_id)
        group = self._cgroup(name, container_id) if name else None
        found = (
            read_limits(group, container_id, root=self._cgroups, proc=self._proc) if group else None
        )
        if found is not None:
            return found
        state = await self.inspect(container_id)
        if state is None or state.pid is None:
            return None
        return await asyncio.to_thread(self._read_limits, state.pid, state.id)

    async def start(self, container_id: str) -> None:
        """Let the command execute; see the port.

        Podman's start runs an exited container once more, so the state is looked at first. Two
        calls at once take turns for the same reason. A service that was killed in its start has
        run the command though its state says "initialized", so the process is asked as well.
        """
        name = self._fresh.pop(container_id, None)
        if name is not None:
            # Initialised by us a moment ago: it can't have run, so it need not be looked at.
            answer = await self._rest.call("POST", f"/containers/{container_id}/start")
            if answer.ok:
                _remember(self._started, container_id, name)
                return
        async with self._starting.setdefault(container_id, asyncio.Lock()):
            state = await self._when_calm(container_id, _over)
            if state is None:
                raise ContainerError(f"there is no container {container_id[:12]} to start")
            if _over(state) or await self._has_run(state):
                return
            answer = await self._rest.call("POST", f"/containers/{container_id}/start")
            if not answer.ok:
                raise refusal(answer, f"cannot start {state.name}")

    async def _when_calm(
        self, name_or_id: str, told: Callable[[ContainerState | None], bool]
    ) -> ContainerState | None:
        """Inspect it, again while calls that nobody waits for may be under way, until it tells."""
        while True:
            left = self._rest.restless()
            state = await self.inspect(name_or_id)
            if told(state) or not left:
                return state
            await asyncio.sleep(min(left, NOTICE_LOOK))

    async def _has_run(self, state: ContainerState) -> bool:
        """Whether the command of an "initialized" container executes, or has executed, already."""
        seen = await asyncio.to_thread(waits_for_start, state.pid or 0, state.id, proc=self._proc)
        if state.pid is None or seen is not None:
            return seen is False
        # Dead, or not to be seen from here. Podman's cleanup of a dead one takes it in soon.
        for _ in range(int(NOTICE_SECONDS / NOTICE_LOOK)):
            await asyncio.sleep(NOTICE_LOOK)
            later = await self.inspect(state.id)
            if later is None or later.running or later.exited:
                return True
        return False

    async def inspect(self, name_or_id: str) -> ContainerState | None:
        """Return what the engine knows, or its storage if there is no room; see the port."""
        try:
            return await inspect(self._rest, name_or_id)
        except NoRoom:
            root = self._engine.graph_root if self._engine else None
            state = await asyncio.to_thread(stored.exited, root, name_or_id, self._emptied)
            if state is None:
                raise
            return state

    async def awaited(self, name: str) -> ContainerState | None:
        """Inspect it, again while the engine may be making it; see the port."""
        return await self._when_calm(name, lambda state: state is not None)

    async def wait(self, container_id: str) -> ContainerState | None:
        """Return once the container is dead and its output is written; see the port."""
        name = self._started.pop(container_id, None)
        group = self._cgroup(name, container_id) if name else None
        pid = first_process(group, root=self._cgroups, proc=self._proc) if group else None
        watch = DeathWatch(
            self._rest, container_id, proc=self._proc, emptied=self._emptied, pid=pid
        )
        return await watch.run()

    def _cgroup(self, name: str, container_id: str) -> str | None:
        """Return the cgroup where the cgroupfs manager puts it; elsewhere the engine is asked."""
        parent = cgroup_parent(self._settings, name)
        return f"{parent}/libpod-{container_id}" if parent else None

    def _emptied(self, state: ContainerState) -> bool:
        parent = cgroup_parent(self._settings, state.name)
        return parent is not None and emptied(parent, root=self._cgroups)

    async def kill(self, container_id: str, signal: str) -> None:
        """Send the signal to PID 1, whose death by SIGKILL ends its whole pid namespace."""
        answer = await self._rest.call(
            "POST", f"/containers/{container_id}/kill", query={"signal": signal}
        )
        if answer.ok or answer.status in (404, 409):
            return
        # 500 "can only kill running containers", or conmon is lost and the kill went through.
        state = await self.inspect(container_id)
        if state is not None and state.running:
            raise Unavailable(f"Podman cannot send {signal} to {state.name}: {answer.message}")

    async def remove(self, name_or_id: str) -> None:
        """Kill and remove, and its cgroup parent; see the port."""
        try:
            state = await self.inspect(name_or_id)
        except Unshown:  # which does not say that it can't be removed
            state = None
        if state is not None and state.layer is not None:
            if state.running and not await asyncio.to_thread(self._emptied, state):
                await self._killed(state)
            await self._trees.ask({"ease": str(state.layer)}, seconds=EASE_SECONDS)
        answer = await self._delete(name_or_id)
        if not answer.ok and answer.status != 404:
            # With conmon lost the first try only finds out that the container is dead.
            answer = await self._delete(name_or_id)
        if not answer.ok and answer.status != 404:
            raise Unavailable(f"Podman cannot remove {name_or_id}: {answer.message}")
        failpoints.hit("engine.after_delete")
        name = state.name if state else name_or_id
        if (parent := cgroup_parent(self._settings, name)) and not await asyncio.to_thread(
            remove_parent, parent, root=self._cgroups
        ):
            raise Unavailable(f"the cgroup {parent} still holds processes")

    async def empty(self, name_or_id: str) -> None:
        """Free what a dead container wrote to its layer; see the port.

        On a full disk the engine can neither remove it, nor note that it is dead: the kernel is
        asked whether the process that it calls running is there.
        """
        state = await self.inspect(name_or_id)
        if state is None or state.layer is None or not (state.running or state.exited):
            return
        if state.running and belongs(state.pid or 0, state.id, proc=self._proc):
            return
        await self._trees.ask({"empty": str(state.layer)}, seconds=EASE_SECONDS)

    async def remnants(self) -> list[str]:
        """Return the names of the cgroup parents that are there."""
        parent = self._settings.cgroup_parent
        return await asyncio.to_thread(children, parent, root=self._cgroups) if parent else []

    async def _killed(self, state: ContainerState) -> None:
        """Return once a running container is dead, or is said to be in vain for a while."""
        with contextlib.suppress(Unavailable):  # with conmon lost it can't, and finds it dead
            await self.kill(state.id, "SIGKILL")
        for _ in range(int(NOTICE_SECONDS / NOTICE_LOOK)):
            later = await self.inspect(state.id)
            if later is None or not later.running:
                return
            await asyncio.sleep(NOTICE_LOOK)

    async def containers(self) -> list[ContainerState]:
        """Return our containers; see the port."""
        return await containers(self._rest)

    async def trim_images(self, budget_bytes: int) -> int:
        """Remove the oldest unused images beyond the budget; see the port."""
        return await self._library.trim_images(budget_bytes)

    async def _delete(self, name_or_id: str) -> Answer:
        query = {"force": "true", "timeout": "0", "v": "true"}
        return await self._rest.call("DELETE", f"/containers/{name_or_id}", query=query)

    async def _initialise(self, container_id: str) -> None:
        answer = await self._rest.call("POST", f"/containers/{container_id}/init")
        if answer.ok:
            return
        refused = refusal(answer, f"cannot initialise {container_id[:12]}")
        if isinstance(refused, ContainerError) and await self._lost_controllers():
            raise Unavailable(f"the host has lost the controllers of our limits: {refused}")
        raise refused

    async def _lost_controllers(self) -> bool:
        """Whether the engine could enforce limits when it was last asked, and no longer can.

        Its new answer is kept, so the caller's next try knows, and the next refusal is final.
        """
        if self._engine is None or not self._engine.enforces:
            return False
        self._engine = await self._asking.ask()
        return not self._engine.enforces

    def _read_limits(self, pid: int, container_id: str) -> Limits | None:
        path = cgroup_of(pid, proc=self._proc)
        if path is None or not belongs(pid, container_id, proc=self._proc):
            return None
        return read_limits(path, container_id, root=self._cgroups, proc=self._proc)

    async def _probe(self) -> Engine:
        """Return what the engine can do, asked once in this process's life."""
        if self._engine is None:
            self._engine = await self._asking.ask()
        return self._engine


def _over(state: ContainerState | None) -> bool:
    """Whether a start can come to nothing any more."""
    return state is None or state.running or state.exited


def _remember(names: dict[str, str], container_id: str, name: str) -> None:
    names[container_id] = name
    if len(names) > FRESH:
        names.pop(next(iter(names)))
