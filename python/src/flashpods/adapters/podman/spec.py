"""From a job's :class:`ContainerSpec` to the engine's request (SpecGenerator of the libpod API).

Everything that an image could set to its advantage is set here explicitly: labels, user,
entrypoint, working directory, volumes, health check, stop signal, seccomp.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from flashpods.config import Podman
from flashpods.jobs.model import LABEL_ID, LABEL_MARK, LABEL_TYPE
from flashpods.ports import ContainerSpec, Mount

CPU_PERIOD_US: Final = 100_000
LOG_MAX_BYTES: Final = 160 * 1024**2
"""The size at which conmon starts a log file anew, above what the log store needs for 50 MB."""

HARMLESS: Final = ["rbind", "nosuid", "nodev"]


@dataclass(frozen=True, slots=True)
class Engine:
    """What the engine said about itself.

    ``uid`` and ``gid`` are those it runs as, ``graph_root`` is where its storage lies.
    """

    version: str
    uid: int
    gid: int
    controllers: frozenset[str]
    graph_root: Path | None = None

    @property
    def enforces(self) -> bool:
        """Whether it has the cgroup v2 controllers of our limits."""
        return {"memory", "cpu", "pids"} <= self.controllers


def labels(spec: ContainerSpec) -> dict[str, str]:
    """Return our labels, all three: one left out could come from the image."""
    return {LABEL_MARK: "true", LABEL_ID: spec.job_id, LABEL_TYPE: spec.job_type}


def cgroup_parent(settings: Podman, name: str) -> str | None:
    """Return the container's own cgroup parent, by which SPIRE finds the container's name."""
    return f"{settings.cgroup_parent.rstrip('/')}/{name}" if settings.cgroup_parent else None


def create_request(
    spec: ContainerSpec, settings: Podman, engine: Engine, *, log_max_bytes: int = LOG_MAX_BYTES
) -> dict[str, Any]:
    """Return the body of ``POST /libpod/containers/create``.

    The first word of ``argv`` becomes the entrypoint, so that neither the image's ENTRYPOINT nor
    its CMD is used. With ``enforce_limits`` false no resource limits are asked for: crun fails a
    container whose host lacks the controllers.

    Raises:
        ValueError: ``argv`` is empty.
    """
    if not spec.argv or not spec.argv[0]:
        raise ValueError("argv is empty")
    request: dict[str, Any] = {
        "name": spec.name,
        "image": spec.image,
        "entrypoint": [spec.argv[0]],
        "command": list(spec.argv[1:]),
        "env": dict(spec.env),
        "env_host": False,
        "httpproxy": False,
        "work_dir": spec.workdir,
        "create_working_dir": True,
        "labels": labels(spec),
        "netns": {"nsmode": settings.network},
        **_privileges(engine, settings),
        "init": True,
        "systemd": "false",
        "stdin": False,
        "terminal": False,
        "stop_signal": int(signal.SIGTERM),
        "restart_policy": "no",
        "remove": False,
        "image_volume_mode": "ignore",
        "healthconfig": {"Test": ["NONE"]},
        "timeout": spec.backstop_seconds,
        "log_configuration": {
            "driver": "k8s-file",
            "path": str(spec.log_path),
            "size": log_max_bytes,
        },
        "mounts": [_mount(m) for m in spec.mounts],
    }
    if parent := cgroup_parent(settings, spec.name):
        request["cgroup_parent"] = parent
    if spec.enforce_limits:
        request["resource_limits"] = _resources(spec)
    return request


def _privileges(engine: Engine, settings: Podman) -> dict[str, Any]:
    return {
        # keep-id maps the engine's user to itself; an image's USER would run as another one.
        "user": f"{engine.uid}:{engine.gid}",
        "userns": {"nsmode": "keep-id"},
        "cap_drop": ["ALL"],
        "cap_add": [],
        "privileged": False,
        "no_new_privileges": True,
        "seccomp_policy": "default",  # "image" would take the profile from an image's label
        "seccomp_profile_path": str(settings.seccomp_profile),
    }


def _mount(mount: Mount) -> dict[str, Any]:
    return {
        "type": "bind",
        "source": str(mount.source),
        "destination": mount.target,
        "options": ["ro" if mount.read_only else "rw", *HARMLESS],
    }


def _resources(spec: ContainerSpec) -> dict[str, Any]:
    """Return OCI ``LinuxResources``; memory with swap equal to memory means: no swap."""
    return {
        "memory": {"limit": spec.limits.memory_bytes, "swap": spec.limits.memory_bytes},
        "cpu": {"quota": spec.limits.cpus * CPU_PERIOD_US, "period": CPU_PERIOD_US},
        "pids": {"limit": spec.limits.pids},
    }
