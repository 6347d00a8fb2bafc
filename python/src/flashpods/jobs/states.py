"""The job's state machine, as data.

``TRANSITIONS`` is the one table. :func:`advance` is the one function that moves a job; the store
writes its answer with ``WHERE status = :expected``. The schema's CHECK and the diagram in
ARCHITECTURE.md are tested against this table.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class JobStatus(StrEnum):
    """Where a job is. The values are what the API shows."""

    PENDING = "pending"
    STARTING = "starting"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    CLEANING = "cleaning"
    CLEANED = "cleaned"


class Trigger(StrEnum):
    """What happened to a job; each is an edge of the diagram."""

    LAUNCH = "launch"  # a launch slot is free: workspace, image and container come next
    STARTED = "started"  # the container's command executes, within its limits
    SUCCEED = "succeed"  # exit code 0, output collected
    FAIL = "fail"  # another exit code or an error
    TIME_OUT = "time_out"  # the deadline passed
    CANCEL = "cancel"  # the caller asked, and the container is dead
    CLEAN = "clean"  # retention is over: files are being deleted
    CLEANED = "cleaned"  # log and artifacts are gone


class IllegalTransition(ValueError):
    """The table has no such edge."""


S, T = JobStatus, Trigger

TRANSITIONS: Final[dict[tuple[JobStatus, Trigger], JobStatus]] = {
    (S.PENDING, T.LAUNCH): S.STARTING,
    (S.PENDING, T.FAIL): S.FAILED,
    (S.PENDING, T.CANCEL): S.CANCELLED,
    (S.STARTING, T.STARTED): S.RUNNING,
    (S.STARTING, T.FAIL): S.FAILED,
    (S.STARTING, T.CANCEL): S.CANCELLED,
    (S.RUNNING, T.SUCCEED): S.COMPLETED,
    (S.RUNNING, T.FAIL): S.FAILED,
    (S.RUNNING, T.TIME_OUT): S.TIMED_OUT,
    (S.RUNNING, T.CANCEL): S.CANCELLED,
    (S.COMPLETED, T.CLEAN): S.CLEANING,
    (S.FAILED, T.CLEAN): S.CLEANING,
    (S.TIMED_OUT, T.CLEAN): S.CLEANING,
    (S.CANCELLED, T.CLEAN): S.CLEANING,
    (S.CLEANING, T.CLEANED): S.CLEANED,
}

ACTIVE: Final = frozenset({S.PENDING, S.STARTING, S.RUNNING})
"""States that hold resources."""

ENDED: Final = frozenset({S.COMPLETED, S.FAILED, S.TIMED_OUT, S.CANCELLED})
"""States in which the result is known and its output still kept."""

TERMINAL: Final = ENDED | {S.CLEANING, S.CLEANED}
"""States in which nothing runs any more."""


def advance(status: JobStatus, trigger: Trigger) -> JobStatus:
    """Return the state that ``trigger`` leads to from ``status``.

    Raises:
        IllegalTransition: the table has no such edge.
    """
    try:
        return TRANSITIONS[status, trigger]
    except KeyError:
        raise IllegalTransition(f"no edge {trigger!s} from {status!s}") from None
