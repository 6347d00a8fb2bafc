"""Looking at containers: one, or all of ours.

A ``DELETE`` that meets a ``create`` in the middle takes away what is in Podman's storage by then,
and the create goes on to enter the container in Podman's database. Such a one can't run and can't
be inspected ("container not known"), but it is listed and keeps its name, until it is deleted.

So is one that was made in the last seconds before a power cut: Podman's database is on the disk, of
the files that describe its layer only the names are ("getting graph driver info", ``readlink …:
invalid argument``, because they are empty), or its list of layers is an older one ("layer not
known"). What runs all the same is known by what the list says of it.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

from flashpods.adapters.podman.rest import RestClient
from flashpods.adapters.podman.states import from_inspect, from_list
from flashpods.errors import Unavailable
from flashpods.jobs.model import LABEL_MARK
from flashpods.ports import ContainerState

# containers/storage, ErrContainerUnknown; libpod, getContainerInspectData
UNSTORED: Final = ("container not known", "layer not known", "getting graph driver info")
# SQLite's error 13, and the system's ENOSPC
FULL: Final = ("database or disk is full", "no space left on device")


class Unshown(Unavailable):
    """The engine answers, but can't show this one container."""


class NoRoom(Unavailable):
    """The engine has no room to note what it found, and so does not tell."""


async def inspect(rest: RestClient, name_or_id: str) -> ContainerState | None:
    """Ask for one container; None if there is none.

    Raises:
        NoRoom: the engine's disk is full.
        Unavailable: the engine does not answer.
        Unshown: it does, but not to this.
    """
    answer = await rest.call("GET", f"/containers/{name_or_id}/json")
    if answer.status == 404:
        return None
    if answer.ok:
        return from_inspect(answer.json())
    if any(mark in answer.message for mark in UNSTORED):
        for item in await _listed(rest):
            if name_or_id in {item["Id"], *item["Names"]}:
                return from_list(item, bare=True)
    kind = NoRoom if any(mark in answer.message for mark in FULL) else Unshown
    raise kind(f"Podman cannot inspect {name_or_id}: {answer.message}")


async def containers(rest: RestClient) -> list[ContainerState]:
    """Return our containers, in one call; ``oom_killed`` needs :func:`inspect`.

    Raises:
        Unavailable: the engine does not answer, or not to this.
    """
    looks = [_look(rest, item) for item in await _listed(rest)]
    return [state for state in await asyncio.gather(*looks) if state is not None]


async def _look(rest: RestClient, item: dict[str, Any]) -> ContainerState | None:
    """Read an item of the list; one that the engine can't show hides no other."""
    if (state := from_list(item)) is not None:
        return state
    try:
        return await inspect(rest, item["Id"])
    except Unavailable:
        return from_list(item, bare=True)


async def _listed(rest: RestClient) -> list[dict[str, Any]]:
    filters = json.dumps({"label": [f"{LABEL_MARK}=true"]})
    answer = await rest.call("GET", "/containers/json", query={"all": "true", "filters": filters})
    if not answer.ok:
        raise Unavailable(f"Podman cannot list containers: {answer.message}")
    return list(answer.json() or [])
