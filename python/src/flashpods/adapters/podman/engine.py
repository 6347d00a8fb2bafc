"""What the engine is: its version, its user, and which limits it can enforce."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from flashpods.adapters.podman.cgroups import controllers_below
from flashpods.adapters.podman.rest import RestClient
from flashpods.adapters.podman.spec import Engine
from flashpods.config import Podman
from flashpods.errors import Unavailable


class Probe:
    """Asks the engine what it is, once for all who want to know; ``known`` is its last answer.

    A caller with less time than the answer takes, as a look at the host's health has, leaves the
    question to the next one.
    """

    def __init__(self, rest: RestClient, settings: Podman) -> None:
        """Ask nothing yet."""
        self._rest = rest
        self._settings = settings
        self._asked: asyncio.Task[Engine] | None = None
        self.known: Engine | None = None

    async def once(self) -> Engine:
        """Return what is known, else ask.

        Raises:
            Unavailable: see :func:`probe`.
        """
        return self.known or await self.ask()

    async def lost_controllers(self) -> bool:
        """Whether the engine could enforce limits when it was last asked, and no longer can.

        Its new answer is kept, so the caller's next try knows, and the next refusal is final.

        Raises:
            Unavailable: see :func:`probe`.
        """
        if self.known is None or not self.known.enforces:
            return False
        return not (await self.ask()).enforces

    async def ask(self) -> Engine:
        """Return the answer to the question that is under way, or to a new one.

        Raises:
            Unavailable: see :func:`probe`.
        """
        if self._asked is None or self._asked.done():
            self._asked = asyncio.create_task(self._question())
            self._asked.add_done_callback(_heard)
        return await asyncio.shield(self._asked)

    async def _question(self) -> Engine:
        self.known = await probe(self._rest, self._settings)  # also when nobody waits any more
        return self.known

    async def close(self) -> None:
        """Give up the question."""
        if self._asked is not None:
            self._asked.cancel()
            await asyncio.gather(self._asked, return_exceptions=True)


def _heard(asked: asyncio.Task[Engine]) -> None:
    """Take in a failure that nobody waited for."""
    if not asked.cancelled():
        asked.exception()


async def probe(rest: RestClient, settings: Podman) -> Engine:
    """Ask the engine; 20 to 400 ms here.

    Raises:
        Unavailable: it does not answer, or is no rootless Podman.
    """
    answer = await rest.call("GET", "/info")
    if not answer.ok:
        raise Unavailable(f"Podman does not say what it is: {answer.message}")
    return engine_from(answer.json(), settings)


def engine_from(info: dict[str, Any], settings: Podman) -> Engine:
    """Read ``GET /libpod/info``.

    Container id 0 of a rootless engine is the user it runs as. The controllers are what the
    service's own cgroup has; those of the configured parent are added, because a service in a
    subgroup sees its own none before the first container.

    Raises:
        Unavailable: what answers is not a rootless Podman as we know it.
    """
    try:
        host = info["host"]
        maps = host["idMappings"]
        uid = next(m["host_id"] for m in maps["uidmap"] if m["container_id"] == 0)
        gid = next(m["host_id"] for m in maps["gidmap"] if m["container_id"] == 0)
        controllers = frozenset(host.get("cgroupControllers") or ())
        version = str(info["version"]["Version"])
    except (KeyError, TypeError, StopIteration):
        raise Unavailable(
            "Podman's info has no id mappings: the service must run rootless, as a user with a "
            "range in /etc/subuid"
        ) from None
    if settings.cgroup_parent:
        controllers |= controllers_below(settings.cgroup_parent)
    root = (info.get("store") or {}).get("graphRoot")
    return Engine(
        version=version,
        uid=uid,
        gid=gid,
        controllers=controllers,
        graph_root=Path(root) if root else None,
    )
