"""From the engine's JSON to :class:`ContainerState`.

Podman's states (libpod/define/containerstate.go), and what they mean here:

- ``stopped``: dead, its exit status taken in, its clean-up (unmounting) still to come. conmon
  writes the exit status after it has drained the output, so that with a definite status the log
  is complete too.
- ``exited``: the same after the clean-up, 50 to 200 ms later.
- ``created`` with a pid: it was initialised, and the service was killed before it noted the start;
  the clean-up then took it back to ``created``. It may have run, so for us it is dead, its status
  lost: initialised again it would run its command a second time.
- ``exited`` without a time of its end: it ran when the host lost its power, and Podman 5 put it
  there at the next boot, with exit status 0 (libpod, ``resetContainerState``). Nobody saw it end.
  For us it is what Podman 4 makes of it: ``created``, with a time of its start.
- exit status -1: conmon killed it at its ``timeout`` (our backstop), or conmon is lost and nobody
  knows the status.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from flashpods.jobs.model import LABEL_ID
from flashpods.ports import ContainerState

STATUS: Final = {
    "created": "created",
    "configured": "created",
    "initialized": "initialized",
    "running": "running",
    "stopping": "running",
    "paused": "running",
    "stopped": "exited",
    "exited": "exited",
    "dead": "exited",
    "removing": "exited",
}
KILLED: Final = 137
NO_STATUS: Final = -1


def parse_time(text: str) -> datetime | None:
    """Parse Go's RFC 3339 time (nanoseconds, any offset) to aware UTC; None for its zero time."""
    if not text or text.startswith("0001-"):
        return None
    head, dot, tail = text.partition(".")
    if dot:
        digits = len(tail) - len(tail.lstrip("0123456789"))
        text = f"{head}.{tail[:digits][:6]:0<6}{tail[digits:]}"
    return datetime.fromisoformat(text).astimezone(UTC)


def from_inspect(found: dict[str, Any]) -> ContainerState:
    """Map the answer of ``GET /libpod/containers/{name}/json``."""
    state, config = found["State"], found.get("Config") or {}
    status, forgotten = _status(state["Status"], state["Pid"])
    dead = status == "exited"
    started, finished = parse_time(state["StartedAt"]), parse_time(state["FinishedAt"])
    if started and finished and finished < started:  # noted after the start, and it was quicker
        started = finished
    if state["Status"] == "exited" and started is not None and finished is None:
        status, dead = "created", False
    code: int | None = state["ExitCode"] if dead and not forgotten else None
    backstop = False
    if code == NO_STATUS:
        ran = (finished - started).total_seconds() if started and finished else 0
        backstop = bool(config.get("Timeout")) and ran >= config["Timeout"] - 1
        code = KILLED if backstop else None
    return ContainerState(
        id=found["Id"],
        name=found["Name"],
        job_id=(config.get("Labels") or {}).get(LABEL_ID, ""),
        status=status,
        pid=None if dead else state["Pid"] or None,
        exit_code=code,
        oom_killed=bool(state["OOMKilled"]),
        backstop_hit=backstop,
        started_at=started,
        finished_at=finished if dead else None,
        layer=_layer(found),
    )


def _layer(found: dict[str, Any]) -> Path | None:
    """Return the upper directory, where the storage driver has one."""
    data = (found.get("GraphDriver") or {}).get("Data") or {}
    return Path(data["UpperDir"]) if data.get("UpperDir") else None


def from_list(found: dict[str, Any], *, bare: bool = False) -> ContainerState | None:
    """Map an item of ``GET /libpod/containers/json``; whole seconds, ``oom_killed`` unknown.

    Returns None where only an inspection tells how it ended; with ``bare``, where none is to be
    had, a state without an exit code.
    """
    status, forgotten = _status(found["State"], found["Pid"])
    dead = status == "exited"
    unseen = found["State"] == "exited" and found.get("ExitedAt", 0) <= 0
    unknown = forgotten or unseen or (dead and found["ExitCode"] == NO_STATUS)
    if unknown and not bare:
        return None
    begun = status in {"running", "exited"}
    if unseen and found.get("StartedAt", 0) > 0:
        status, dead = "created", False
    return ContainerState(
        id=found["Id"],
        name=found["Names"][0],
        job_id=(found.get("Labels") or {}).get(LABEL_ID, ""),
        status=status,
        pid=None if dead else found["Pid"] or None,
        exit_code=found["ExitCode"] if dead and not unknown else None,
        oom_killed=False,
        backstop_hit=False,
        started_at=_unix(found.get("StartedAt", 0)) if begun else None,
        finished_at=_unix(found.get("ExitedAt", 0)) if dead else None,
    )


def _status(name: str, pid: int) -> tuple[str, bool]:
    """Return our status, and whether it is one that the engine has forgotten."""
    status = STATUS.get(name, "exited")
    return ("exited", True) if status == "created" and pid else (status, False)


def _unix(seconds: int) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds > 0 else None
