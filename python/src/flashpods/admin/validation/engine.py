"""Whether jobs are without power over the host: the engine is rootless, its sockets are closed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flashpods.admin.validation.check import Check, Failed
from flashpods.admin.validation.container import Probe, inside, run_command
from flashpods.admin.validation.host import Host
from flashpods.config_identity import AGENT_SOCKET

__all__ = ["CHECKS", "NOBODY", "Door", "door_faults", "doors", "privileges"]

NOBODY: Final = (65534, 65534)
ENGINE: Final = "systemctl cat podman-socket-flashpods: User=flashpods; podman info as that user"
CAPABILITY_SETS: Final = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
SETTLE_SECONDS: Final = 5.0
LOOK_SECONDS: Final = 0.05
# Denied: the permissions say so. Open, refused: they let in, and somebody listens or nobody does.
DENIED: Final = frozenset({"EACCES", "EPERM"})


def privileges(status: str, uid_map: str, *, engine_uid: int) -> list[str]:
    """Say what a job's first process may do that it must not.

    Args:
        status: ``/proc/PID/status``, proc_pid_status(5).
        uid_map: ``/proc/PID/uid_map``, user_namespaces(7), as seen from the host.
        engine_uid: the user that runs the engine; the job must run as that one.
    """
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    uids = {int(word) for word in fields.get("Uid", "").split()}
    faults = []
    if uids != {engine_uid}:
        shown = ", ".join(map(str, sorted(uids)))
        faults.append(f"it runs as uid {shown} of the host, not as {engine_uid}")
    for line in uid_map.splitlines():
        _, outside, count = map(int, line.split())
        if outside == 0 and count > 0:
            faults.append("root of the host is in its user namespace")
    sets = {name: fields.get(name, "1").strip() for name in CAPABILITY_SETS}
    faults += [f"it has capabilities ({n} {v})" for n, v in sets.items() if int(v, 16)]
    if fields.get("NoNewPrivs", "").strip() != "1":
        faults.append("it may gain privileges (no_new_privs is off)")
    if fields.get("Seccomp", "").strip() != "2":
        faults.append("it has no seccomp filter")
    return faults


async def settled(look: Callable[[], list[str]], *, seconds: float = SETTLE_SECONDS) -> list[str]:
    """Return the faults that stay.

    A container counts as started while its process is still the runtime's, whose last step before
    it becomes the job's is the seccomp filter.
    """
    end = time.monotonic() + seconds
    while True:
        faults = await asyncio.to_thread(look)
        if not faults or time.monotonic() > end:
            return faults
        await asyncio.sleep(LOOK_SECONDS)


async def _rootless(host: Host) -> str:
    answer = await host.rest.call("GET", "/info")
    security = answer.json().get("host", {}).get("security", {})
    uid, _ = host.user()
    if not security.get("rootless") or uid == 0:
        raise Failed(f"the engine at {host.settings.podman.socket} is not rootless")

    async def look(probe: Probe) -> list[str]:
        process = Path(f"/proc/{probe.pid}")

        def faults() -> list[str]:
            status, uid_map = (process / name for name in ("status", "uid_map"))
            return privileges(status.read_text(), uid_map.read_text(), engine_uid=uid)

        return await settled(faults)

    if faults := await inside(host, "worker", look):
        raise Failed(f"a job's process: {'; '.join(faults)}")
    return f"jobs run as uid {uid}, in a user namespace, without capabilities"


@dataclass(frozen=True, slots=True)
class Door:
    """A socket, and whether the two kinds of users may connect."""

    key: str
    path: Path
    nobody: bool  # a user who has nothing to do with us
    engine: bool  # the engine's user, whose processes include the jobs


def doors(host: Host) -> list[Door]:
    """Return the sockets that there are by the settings."""
    settings = host.settings
    found = [Door("podman.socket", settings.podman.socket, nobody=False, engine=True)]
    if settings.identity.enabled:
        agent = settings.identity.spire_socket_dir / AGENT_SOCKET
        found += [
            Door("identity.token_socket", settings.identity.token_socket, False, True),
            Door("the Workload API", agent, nobody=True, engine=True),
            Door("spire.server_socket", settings.spire.server_socket, False, False),
        ]
    return found


def door_faults(found: list[Door], as_nobody: list[str], as_engine: list[str]) -> list[str]:
    """Compare who could connect with who may."""
    faults = []
    for door, *said in zip(found, as_nobody, as_engine, strict=True):
        for who, may, answer in (
            ("any user", door.nobody, said[0]),
            ("the jobs' user", door.engine, said[1]),
        ):
            if answer == "ENOENT":
                faults.append(f"{door.key} {door.path} is not there")
                break
            if may and answer != "open":
                faults.append(f"{who} can't connect to {door.key} {door.path} ({answer})")
            elif not may and answer not in DENIED:
                faults.append(f"{who} may connect to {door.key} {door.path}")
    return faults


async def _sockets(host: Host) -> str:
    found = doors(host)
    paths = [door.path for door in found]
    as_nobody = await host.knock(unix=paths, user=NOBODY)
    as_engine = await host.knock(unix=paths, user=host.user())
    if faults := door_faults(found, as_nobody, as_engine):
        raise Failed("; ".join(faults))
    hidden = (host.settings.podman.socket, host.settings.spire.server_socket)
    tell = "".join(f'[ ! -e "{path}" ] || echo "{path}"; ' for path in hidden)
    ended = await run_command(host, "worker", f"{tell}echo done")
    if ended.last != "done":
        raise Failed(f"a container could not look: {ended.last}")
    if seen := ended.lines[:-1]:
        raise Failed(f"a job sees {', '.join(seen)}", "podman.mounts must not hold it")
    return f"{len(found)} sockets open to whom they should; a job sees no engine's"


CHECKS: Final = (
    Check(name="rootless", title="rootless", run=_rootless, remedy=ENGINE),
    Check(
        name="socket-permissions",
        title="socket permissions",
        run=_sockets,
        remedy="restart the socket's unit; systemd-tmpfiles --create puts directories right",
    ),
)
