"""What any experiment leaves that a stack's database, engine and API tell, for the checker."""

from __future__ import annotations

from collections.abc import Collection

from checker import Event, Evidence, Row
from witness import Witness


def observed(
    see: Witness,
    running: Collection[str],
    *,
    capacity: tuple[int, int],
    reserved: tuple[int, int] | None,
) -> Evidence:
    """Gather it; ``running``: the jobs that are meant to be active."""
    see.note_created()
    rows, containers = see.rows, see.containers()
    return Evidence(
        capacity=capacity,
        jobs=[Row(*r) for r in rows("SELECT id, status, cpus, memory_gb FROM jobs")],
        events=[
            Event(*r)
            for r in rows("SELECT job_id, from_status, to_status FROM job_events ORDER BY n")
        ],
        uploads=dict(rows("SELECT id, state FROM uploads")),
        running=frozenset(running),
        created={name: frozenset(ids) for name, ids in see.created.items()},
        started={name: frozenset(ids) for name, ids in see.started.items()},
        containers=list(containers),
        reserved=reserved,
        leftovers=see.leftovers(running, containers.values()),
        integrity=[str(r[0]) for r in rows("PRAGMA integrity_check")],
    )
