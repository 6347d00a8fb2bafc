"""Which job a caller belongs to, by the path of its cgroup: a pure rule.

A job's container has a cgroup parent of its own, ``<cgroup_parent>/job_<id>``, and the engine puts
the container into ``libpod-<container id>`` below it. Only who may write to that tree of the host
can put a process there; a container sees its own part of it, read-only.
"""

from __future__ import annotations

import re

from flashpods.jobs.names import JOB_ID
from flashpods.ports.identity import JobContainer

_CONTAINER = re.compile(r"libpod-([0-9a-f]{64})\Z")
_DELETED = " (deleted)"  # cgroups(7): how the kernel marks a cgroup that is gone


def job_container(cgroup: str, parent: str) -> JobContainer | None:
    """Return the job's container that a cgroup path lies in; None if it is no job's.

    The helpers of a container (``libpod-conmon-<id>``) lie beside it and are not it.
    """
    root = f"{parent.rstrip('/')}/"
    if not cgroup.startswith(root) or cgroup.endswith(_DELETED):
        return None
    name, _, rest = cgroup.removeprefix(root).partition("/")
    container = _CONTAINER.match(rest.partition("/")[0])
    job_id = name.removeprefix("job_")
    if container is None or job_id == name or not JOB_ID.match(job_id):
        return None
    return JobContainer(job_id=job_id, name=name, id=container[1])
