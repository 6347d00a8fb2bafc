"""The shortcut from row to Job gives what the constructor gives."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, fields
from datetime import UTC, datetime, timedelta, timezone

import pytest

from flashpods.adapters.sqlite import rows
from flashpods.adapters.sqlite.connection import to_text
from flashpods.jobs.model import Job, JobType, Phase
from flashpods.jobs.states import JobStatus

TIMES = [datetime(2026, 11, 24, 9, 31, 26, ms * 1000, tzinfo=UTC) for ms in range(6)]
FULL = Job(
    id="j1",
    seq=7,
    client_job_id="k",
    request_sha256="a" * 64,
    type=JobType.AGENT,
    status=JobStatus.TIMED_OUT,
    phase=Phase.COLLECTING,
    command=None,
    task="t",
    context="c",
    git_branch="b",
    files_id="u",
    image="i",
    cpus=1,
    memory_gb=2,
    timeout_minutes=3,
    created_at=TIMES[0],
    started_at=TIMES[1],
    completed_at=TIMES[2],
    cancel_requested_at=TIMES[3],
    container_id="c",
    exit_code=137,
    error="e",
    warnings=("w", "€"),
    log_deleted_at=TIMES[4],
    artifacts_deleted_at=TIMES[5],
)
ROW = (
    *("j1", 7, "k", "a" * 64, "agent", "timed_out", "collecting", None, "t", "c", "b", "u", "i"),
    *(1, 2, 3, *map(to_text, TIMES[:4]), "c", 137, "e", '["w", "€"]', *map(to_text, TIMES[4:])),
)


def test_the_columns_are_the_fields_in_order() -> None:
    assert tuple(field.name for field in fields(Job)) == rows.JOB_FIELDS


def test_a_row_becomes_the_job_that_the_constructor_makes() -> None:
    job = rows.job(ROW)
    assert type(job) is Job
    assert job == FULL
    assert hash(job) == hash(FULL)
    assert repr(job) == repr(FULL)
    for field in fields(Job):
        assert type(getattr(job, field.name)) is type(getattr(FULL, field.name))


def test_it_is_a_whole_job() -> None:
    job = rows.job(ROW)
    with pytest.raises(FrozenInstanceError):
        job.error = "other"  # type: ignore[misc] # the point of the test
    assert pickle.loads(pickle.dumps(job)) == copy.copy(job) == FULL
    assert job.terminal


def test_times_are_utc_text_that_sorts() -> None:
    assert to_text(TIMES[1]) == "2026-11-24T09:31:26.001Z"
    assert to_text(TIMES[1].astimezone(timezone(timedelta(hours=9)))) == to_text(TIMES[1])
    assert to_text(datetime(2026, 1, 1, tzinfo=UTC)) == "2026-01-01T00:00:00.000Z"
    with pytest.raises(ValueError, match="naive"):
        to_text(datetime(2026, 1, 1))  # noqa: DTZ001 - the point of the test
