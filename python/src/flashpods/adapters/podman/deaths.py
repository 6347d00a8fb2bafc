"""Waiting for a container's end without asking for it all the time.

The kernel tells by a pidfd (pidfd_open(2)) when the container's first process dies. Podman's own
``wait`` polls every 250 ms, so it only serves where the process is not to be seen: in another pid
namespace, or on another machine.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from flashpods.adapters.podman.cgroups import PROC, open_process
from flashpods.adapters.podman.conmon import conmon_alive
from flashpods.adapters.podman.look import Unshown, inspect
from flashpods.adapters.podman.rest import RestClient
from flashpods.errors import Unavailable
from flashpods.ports import ContainerState

FIRST_LOOK, MOST_LOOK = 0.004, 0.256
"""Seconds between looks after the death: its status is taken in within 5 to 30 ms."""
FIRST_BACKOFF, MOST_BACKOFF = 0.1, 2.0
"""Seconds between tries while the engine does not answer."""
CONMON_DUE: Final = 0.5
"""Seconds without an exit status after which we look whether conmon is there to write it."""
CONMON_AGAIN, CONMON_LOOK = 1.0, 5.0
"""Seconds between two such looks, and for one, which reads something of every process."""
STATUS_LOST_AFTER: Final = 6.0
"""Seconds after which it must be lost if conmon is not to be seen; Podman itself gives it five."""
CONMON_GIVEN: Final = 60.0
"""Seconds for one that is there: it writes the status when the output is on its disk."""
UNSHOWN_AFTER: Final = 60.0
"""Seconds for which the engine refused to show a dead one, after which it never will."""
SLICE: Final = 20.0
"""Seconds of one ``wait`` call of the engine; then it is made anew."""


class DeathWatch:
    """One wait for one container."""

    def __init__(
        self,
        rest: RestClient,
        container_id: str,
        *,
        proc: Path = PROC,
        emptied: Callable[[ContainerState], bool] = lambda _state: False,
        pid: int | None = None,
    ) -> None:
        """Take the client.

        Args:
            rest: the engine.
            container_id: whose end.
            proc: where processes are looked for.
            emptied: whether the kernel says that the container's cgroup holds no process. Podman
                calls a container whose conmon was killed "running" for ever.
            pid: its first process, where that is known, so that the engine need not be asked (2 ms
                of its time) before there is something to tell.
        """
        self._rest = rest
        self._id = container_id
        self._proc = proc
        self._emptied = emptied
        self._pid = pid
        self._look = FIRST_LOOK
        self._conmon: bool | None = None  # alive; None: not to be seen, or not looked for yet
        self._conmon_due = CONMON_DUE  # when it is looked for, in seconds from the death
        self._dead_since: float | None = None
        self._unshown_since: float | None = None

    async def run(self) -> ContainerState | None:
        """Return once it is dead, its status is definite and so its output is written.

        Returns:
            The state, with ``exit_code`` None if the engine has lost the status (conmon was
            killed); or None if there is no such container any more, or none that it can show.
        """
        backoff = FIRST_BACKOFF
        await self._by_kernel(self._pid)
        while True:
            try:
                state = await inspect(self._rest, self._id)
            except Unavailable as e:
                if self._never_shown(e):
                    return None
                await asyncio.sleep(backoff)
                backoff = min(backoff * 2, MOST_BACKOFF)
                continue
            backoff, self._unshown_since = FIRST_BACKOFF, None
            if state is None or (state.exited and state.exit_code is not None):
                return state
            if state.exited:
                self._died()
            if self._status_lost():
                return replace(state, status="exited", pid=None, exit_code=None)
            await self._next(state)
            await self._look_for_conmon()

    async def _next(self, state: ContainerState) -> None:
        """Wait until another look is worth it."""
        seen = self._dead_since is not None or await self._by_kernel(state.pid)
        if not seen and state.running and await asyncio.to_thread(self._emptied, state):
            self._died()
            seen = True
        # Not to be seen: it is elsewhere, or it has died since and Podman is about to notice.
        if not seen and self._look >= MOST_LOOK:
            await self._by_engine()
            return
        await asyncio.sleep(self._look)
        self._look = min(self._look * 2, MOST_LOOK)

    async def _by_kernel(self, pid: int | None) -> bool:
        """Wait for the process itself; False if it is not to be seen from here."""
        descriptor = open_process(pid, self._id, proc=self._proc) if pid else None
        if descriptor is None:
            return False
        loop = asyncio.get_running_loop()
        gone = asyncio.Event()
        try:
            loop.add_reader(descriptor, gone.set)
            await gone.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
        self._died()
        return True

    async def _by_engine(self) -> None:
        """Let the engine wait; whatever it answers, the next inspection tells."""
        query = {"condition": ["stopped", "exited"], "interval": "250ms"}
        path = f"/containers/{self._id}/wait"
        begun = asyncio.get_running_loop().time()
        try:
            answer = await self._rest.call("POST", path, query=query, deadline=SLICE, long=True)
            if answer.ok:
                return
        except Unavailable:
            pass  # time for the next slice, or an engine that is away: inspect finds out
        if asyncio.get_running_loop().time() - begun < MOST_LOOK:
            await asyncio.sleep(MOST_LOOK)

    def _died(self) -> None:
        if self._dead_since is None:
            self._dead_since = asyncio.get_running_loop().time()

    def _never_shown(self, error: Unavailable) -> bool:
        now = asyncio.get_running_loop().time()
        if self._dead_since is None or not isinstance(error, Unshown):
            self._unshown_since = None
        elif self._unshown_since is None:
            self._unshown_since = now
        return self._unshown_since is not None and now - self._unshown_since > UNSHOWN_AFTER

    async def _look_for_conmon(self) -> None:
        """Look whether it is there, now and then; the engine is asked once more after that."""
        if self._dead_for() > self._conmon_due:
            self._conmon_due = self._dead_for() + CONMON_AGAIN
            alive = asyncio.to_thread(conmon_alive, self._id, proc=self._proc)
            try:
                self._conmon = await asyncio.wait_for(alive, CONMON_LOOK)
            except TimeoutError:
                self._conmon = None

    def _dead_for(self) -> float:
        since = self._dead_since
        return 0.0 if since is None else asyncio.get_running_loop().time() - since

    def _status_lost(self) -> bool:
        """Whether the engine's last answer is its last word."""
        if self._conmon is None:
            return self._dead_for() > STATUS_LOST_AFTER
        return not self._conmon or self._dead_for() > CONMON_GIVEN
