"""What Podman's storage says of a dead container that its database can't show.

Podman looks at a container by noting first how it ended. Since 4.8 its database is SQLite's, and on
a full disk that fails, "database or disk is full", and the look with it: what fills the disk would
stay, because nobody could tell where it lies. The files of the storage can be read all the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from flashpods.jobs.model import job_of
from flashpods.ports import ContainerState


def exited(
    graph_root: Path | None, name_or_id: str, dead: Callable[[ContainerState], bool]
) -> ContainerState | None:
    """Return a container's state if the storage has it and ``dead`` says so, else None.

    Its exit status and its times are not known: the engine tells once there is room.
    """
    if graph_root is None:
        return None
    try:
        known = json.loads((graph_root / "overlay-containers/containers.json").read_text())
        for item in known:
            if name_or_id in {item["id"], *item["names"]}:
                state = _state(graph_root, item["id"], item["names"][0], item["layer"])
                return state if dead(state) else None
    except (OSError, ValueError, LookupError, TypeError):
        return None  # another driver, or another version of its files
    return None


def _state(graph_root: Path, container_id: str, name: str, layer: str) -> ContainerState:
    return ContainerState(
        id=container_id,
        name=name,
        job_id=job_of(name) or "",
        status="exited",
        pid=None,
        exit_code=None,
        oom_killed=False,
        backstop_hit=False,
        started_at=None,
        finished_at=None,
        layer=graph_root / "overlay" / layer / "diff",
    )
