"""What a job may have, and whether it fits: pure rules.

The sum itself is taken by the store, inside the transaction that inserts the job.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flashpods.errors import BadRequest, InsufficientResources, cut
from flashpods.jobs.model import Capacity, Grant, Reserved


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The defaults and maxima of one type of job."""

    default: Grant
    most: Grant


def whole_number(field: str, value: Any, code: str) -> int | None:
    """Return the value if it is an integer of at least 1, None if it is absent.

    Raises:
        BadRequest: with ``code``; booleans and floats are not integers here.
    """
    if value is None:
        return None
    if type(value) is not int or value < 1:
        raise BadRequest(f"{field} is {cut(value)}; give a whole number of at least 1", code=code)
    return value


def grant(
    *, cpus: Any, memory_gb: Any, timeout_minutes: Any, bounds: Bounds, host: Capacity
) -> tuple[Grant, list[str]]:
    """Clamp a request to its type's maximum and shrink defaults to the host.

    Returns:
        The grant, and a warning for each value that was clamped.

    Raises:
        BadRequest: ``invalid_cpus``, ``invalid_memory``, ``invalid_timeout``: not a whole number
            of at least 1, or a job that could never fit this host.
    """
    warnings: list[str] = []

    def clamp(field: str, wanted: int | None, default: int, most: int) -> int:
        if wanted is None:
            return default
        if wanted > most:
            warnings.append(f"{field} {wanted} is above the maximum; granted {most}")
        return min(wanted, most)

    asked_cpus = whole_number("cpus", cpus, "invalid_cpus")
    asked_memory = whole_number("memory_gb", memory_gb, "invalid_memory")
    asked_time = whole_number("timeout_minutes", timeout_minutes, "invalid_timeout")
    d, m = bounds.default, bounds.most
    granted = Grant(
        cpus=clamp("cpus", asked_cpus, min(d.cpus, host.cpus), m.cpus),
        memory_gb=clamp("memory_gb", asked_memory, min(d.memory_gb, host.memory_gb), m.memory_gb),
        timeout_minutes=clamp("timeout_minutes", asked_time, d.timeout_minutes, m.timeout_minutes),
    )
    for field, code, need, have in (
        ("cpus", "invalid_cpus", granted.cpus, host.cpus),
        ("memory_gb", "invalid_memory", granted.memory_gb, host.memory_gb),
    ):
        if need > have:
            raise BadRequest(
                f"{field} is {need}, but this host offers {have} to jobs; ask for at most {have}",
                code=code,
                details={"host_capacity": describe(host)},
            )
    return granted, warnings


def describe(capacity: Capacity) -> dict[str, int]:
    """Return the capacity as the API shows it."""
    return {"cpus": capacity.cpus, "memory_gb": capacity.memory_gb}


def check_fits(wanted: Grant, reserved: Reserved, host: Capacity) -> None:
    """Refuse what would overcommit the host.

    Raises:
        InsufficientResources: with requested, available, host_capacity and running_jobs at the
            top level of the answer.
    """
    free = Capacity(cpus=host.cpus - reserved.cpus, memory_gb=host.memory_gb - reserved.memory_gb)
    if wanted.cpus <= free.cpus and wanted.memory_gb <= free.memory_gb:
        return
    raise InsufficientResources(
        f"the job needs {wanted.cpus} CPUs and {wanted.memory_gb} GB, free are "
        f"{max(free.cpus, 0)} and {max(free.memory_gb, 0)}; wait for a job to end or ask for less",
        extra={
            "requested": {"cpus": wanted.cpus, "memory_gb": wanted.memory_gb},
            "available": {"cpus": max(free.cpus, 0), "memory_gb": max(free.memory_gb, 0)},
            "host_capacity": describe(host),
            "running_jobs": reserved.jobs,
        },
        headers={"Retry-After": "5"},
    )
