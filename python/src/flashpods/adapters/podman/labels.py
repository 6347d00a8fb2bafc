"""The type of a job's container by its labels, which never change in a container's life."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

from flashpods.adapters.podman.rest import RestClient
from flashpods.errors import Unavailable
from flashpods.jobs.model import LABEL_ID, LABEL_MARK, LABEL_TYPE
from flashpods.ports.identity import JobContainer

KEPT: Final = 512
KEPT_SECONDS: Final = 60.0


class ContainerLabels:
    """Asks Podman, once for each container and for all who wait for the same one.

    What is found is kept by the container's id, for a while and within a bound; that there is no
    such container is not kept.
    """

    def __init__(
        self,
        rest: RestClient,
        *,
        seconds: float,
        kept: int = KEPT,
        kept_seconds: float = KEPT_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Ask through ``rest``, each time within ``seconds``."""
        self._rest = rest
        self._seconds = seconds
        self._most = kept
        self._kept_seconds = kept_seconds
        self._monotonic = monotonic
        self._known: OrderedDict[str, tuple[float, dict[str, Any]]] = OrderedDict()
        self._asking: dict[str, asyncio.Task[dict[str, Any] | None]] = {}

    async def job_type(self, container: JobContainer) -> str | None:
        """Return the type by its labels; see the port."""
        found = self._remembered(container.id) or await self._ask_once(container.id)
        if found is None:
            return None
        labels = found["labels"]
        ours = (
            found["id"] == container.id
            and found["name"] == container.name
            and labels.get(LABEL_MARK) == "true"
            and labels.get(LABEL_ID) == container.job_id
        )
        kind = labels.get(LABEL_TYPE)
        return kind if ours and isinstance(kind, str) else None

    async def ping(self) -> None:
        """Return when Podman answers; see the port."""
        answer = await self._rest.call("GET", "/_ping", deadline=self._seconds)
        if not answer.ok:
            raise Unavailable(f"Podman is not well: {answer.message}")

    def _remembered(self, container_id: str) -> dict[str, Any] | None:
        at, found = self._known.get(container_id, (0.0, None))
        if found is not None and self._monotonic() - at < self._kept_seconds:
            return found
        return None

    async def _ask_once(self, container_id: str) -> dict[str, Any] | None:
        task = self._asking.get(container_id)
        if task is None:
            task = asyncio.create_task(self._ask(container_id), name=f"labels {container_id[:12]}")
            self._asking[container_id] = task
            task.add_done_callback(lambda done: self._asked(container_id, done))
        # One who leaves does not take the answer from the others.
        return await asyncio.shield(task)

    def _asked(self, container_id: str, done: asyncio.Task[dict[str, Any] | None]) -> None:
        self._asking.pop(container_id, None)
        if not done.cancelled():
            done.exception()  # seen, even if all who waited have left

    async def _ask(self, container_id: str) -> dict[str, Any] | None:
        answer = await self._rest.call(
            "GET", f"/containers/{container_id}/json", deadline=self._seconds
        )
        if answer.status == 404:
            return None
        if not answer.ok:
            raise Unavailable(f"Podman cannot inspect {container_id[:12]}: {answer.message}")
        inspected = answer.json()
        try:
            found = {
                "id": inspected["Id"],
                "name": inspected["Name"],
                "labels": dict(inspected["Config"]["Labels"] or {}),
            }
        except (KeyError, TypeError, ValueError):
            raise Unavailable("Podman's socket answered something that is no container") from None
        self._known[container_id] = (self._monotonic(), found)
        self._known.move_to_end(container_id)
        while len(self._known) > self._most:
            self._known.popitem(last=False)
        return found
