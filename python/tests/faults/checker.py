"""The one judge of all fault experiments: what was seen goes in, broken invariants come out.

:func:`violations` is pure, so that it is itself tested with histories that are broken
(``test_checker.py``). :mod:`rig` gathers the evidence from a stack.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from flashpods.jobs.states import ACTIVE, TRANSITIONS, JobStatus

RECOVERY_SECONDS = 10.0
READ_P99_SECONDS = 1.0
READS_LEAST = 100  # of fewer the p99 is the slowest one
_EDGES = frozenset((source, target) for (source, _), target in TRANSITIONS.items())


@dataclass(frozen=True)
class Row:
    """A job as the database has it."""

    id: str
    status: str
    cpus: int
    memory_gb: int


@dataclass(frozen=True)
class Event:
    """A row of job_events, in the order of their numbers."""

    job_id: str
    from_status: str | None
    to_status: str


@dataclass(frozen=True)
class Log:
    """The numbers of a job's numbered lines; ``lines``: how many it wrote, if all must be there."""

    numbers: Sequence[int]
    lines: int | None = None


@dataclass
class Evidence:
    """What an experiment left. Times in seconds, memory in GB."""

    capacity: tuple[int, int]
    jobs: Sequence[Row] = ()
    events: Sequence[Event] = ()
    uploads: Mapping[str, str] = field(default_factory=dict)  # id → state
    acknowledged_jobs: frozenset[str] = frozenset()
    acknowledged_uploads: frozenset[str] = frozenset()
    acknowledged_cancels: frozenset[str] = frozenset()
    broken_promises: Sequence[str] = ()  # what the API should not have answered, or should have
    running: frozenset[str] = frozenset()  # jobs that are meant to be active still
    created: Mapping[str, frozenset[str]] = field(default_factory=dict)  # name → container ids
    anew: bool = False  # whether a container that never ran may have been made once more
    started: Mapping[str, frozenset[str]] = field(default_factory=dict)  # those that ran
    containers: Sequence[str] = ()  # names that exist now
    reserved: tuple[int, int] | None = None  # CPUs and GB, as the API says; None: not asked
    leftovers: Sequence[str] = ()  # directories, cgroups and mounts that no active job explains
    logs: Mapping[str, Log] = field(default_factory=dict)
    integrity: Sequence[str] = ("ok",)
    recovery: float | None = None
    reads: Sequence[float] = ()
    patience: float = 1.0  # by which the bounds on time are stretched; 1 on the full scoreboard


def violations(seen: Evidence) -> list[str]:
    """Return every broken invariant as a line for a person; empty: all hold."""
    return [
        *_acknowledged(seen),
        *_legal(seen),
        *_one_container(seen),
        *_orphans(seen),
        *_overcommit(seen),
        *_logs(seen),
        *_health(seen),
    ]


def percentile(values: Sequence[float], part: float) -> float:
    """Return the smallest value that ``part`` of them do not pass (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


def _acknowledged(seen: Evidence) -> Iterator[str]:
    for job_id in sorted(seen.acknowledged_jobs - {row.id for row in seen.jobs}):
        yield f"job {job_id} was acknowledged and is gone"
    for upload_id in sorted(seen.acknowledged_uploads - set(seen.uploads)):
        yield f"upload {upload_id} was acknowledged and is gone"
    cancelled = {e.job_id for e in seen.events if e.to_status == JobStatus.CANCELLED}
    ended = {row.id for row in seen.jobs if row.status not in ACTIVE}
    for job_id in sorted((seen.acknowledged_cancels & ended) - cancelled):
        yield f"job {job_id} ended otherwise than by the cancellation that was acknowledged"
    yield from seen.broken_promises


def _legal(seen: Evidence) -> Iterator[str]:
    """Replay the history against the table; it must begin with pending and end at the row."""
    at: dict[str, str | None] = {}
    for event in seen.events:
        before = at.get(event.job_id)
        if event.from_status != before:
            yield f"job {event.job_id}: event from {event.from_status}, but it was {before}"
        if before is None:
            legal = event.to_status == JobStatus.PENDING
        else:
            legal = (before, event.to_status) in _EDGES
        if not legal:
            yield f"job {event.job_id}: illegal transition {before} → {event.to_status}"
        at[event.job_id] = event.to_status
    for row in seen.jobs:
        if at.get(row.id) != row.status:
            yield f"job {row.id} is {row.status}, its history ends at {at.get(row.id)}"


def _one_container(seen: Evidence) -> Iterator[str]:
    for what, containers in (("had", seen.created), ("ran in", seen.started)):
        for name, ids in sorted(containers.items()):
            if len(ids) > (2 if what == "had" and seen.anew else 1):
                yield f"{name} {what} {len(ids)} containers"


def _orphans(seen: Evidence) -> Iterator[str]:
    expected = {f"job_{job_id}" for job_id in seen.running}
    for name in sorted(set(seen.containers) - expected):
        yield f"container {name} is an orphan"
    for name in sorted(expected - set(seen.containers)):
        yield f"container {name} is gone, its job was to go on"
    for path in seen.leftovers:
        yield f"left over: {path}"
    for row in seen.jobs:
        if row.status in ACTIVE and row.id not in seen.running:
            yield f"job {row.id} is {row.status} and holds {row.cpus} CPUs, {row.memory_gb} GB"
    done = {row.id for row in seen.jobs if row.status not in ACTIVE}
    for job_id in sorted(seen.running & done):
        yield f"job {job_id} was to go on, but it ended"
    held = [(row.cpus, row.memory_gb) for row in seen.jobs if row.status in ACTIVE]
    owed = (sum(cpus for cpus, _ in held), sum(memory for _, memory in held))
    if seen.reserved is not None and seen.reserved != owed:
        yield f"reserved are {seen.reserved} CPUs and GB, the active jobs have {owed}"


def _overcommit(seen: Evidence) -> Iterator[str]:
    """Add up what active jobs held after each event; events are in the order of their commits."""
    size = {row.id: (row.cpus, row.memory_gb) for row in seen.jobs}
    held: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for event in seen.events:
        if event.to_status in ACTIVE:
            held[event.job_id] = size.get(event.job_id, (0, 0))
        else:
            held.pop(event.job_id, None)
        cpus, memory = (sum(part) for part in zip(*held.values(), strict=True)) if held else (0, 0)
        if cpus > seen.capacity[0] or memory > seen.capacity[1]:
            yield (
                f"overcommitted at {event.job_id} → {event.to_status}: {cpus} CPUs, {memory} GB "
                f"of {seen.capacity}"
            )
            return


def _logs(seen: Evidence) -> Iterator[str]:
    for job_id, log in sorted(seen.logs.items()):
        for position, number in enumerate(log.numbers):
            if number != position:
                yield f"log of {job_id}: line {number} where {position} belongs (lost or doubled)"
                break
        if log.lines is not None and len(log.numbers) != log.lines:
            yield f"log of {job_id}: {len(log.numbers)} of {log.lines} lines"


def _health(seen: Evidence) -> Iterator[str]:
    if list(seen.integrity) != ["ok"]:
        yield f"PRAGMA integrity_check: {'; '.join(seen.integrity)[:200]}"
    if seen.recovery is not None and seen.recovery > seen.patience * RECOVERY_SECONDS:
        yield f"recovered only after {seen.recovery:.1f} s"
    if len(seen.reads) >= READS_LEAST:
        p99 = percentile(seen.reads, 0.99)
        if p99 > seen.patience * READ_P99_SECONDS:
            yield f"p99 of {len(seen.reads)} unrelated reads was {p99:.2f} s"
