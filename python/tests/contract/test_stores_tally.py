"""One suite for both stores: what the records add up to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from store_bench import AT, STORES, Bench, S, T, later, open_bench

from flashpods.errors import StaleState
from flashpods.jobs.model import (
    Artifact,
    Ended,
    JobType,
    Note,
    Outcome,
    Reserved,
    Step,
    UploadState,
)
from flashpods.jobs.states import JobStatus

A, W = JobType.AGENT, JobType.WORKER


@pytest.fixture(params=STORES)
async def b(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    async with open_bench(request.param, tmp_path) as bench:
        yield bench


def nonzero(counts: object) -> dict[object, int]:
    assert hasattr(counts, "items")
    return {key: n for key, n in counts.items() if n}


async def test_an_empty_store_adds_up_to_nothing(b: Bench) -> None:
    tally = await b.store.tally()
    assert (nonzero(tally.active), nonzero(tally.created), nonzero(tally.ended)) == ({}, {}, {})
    assert (tally.reserved, tally.draining) == (Reserved(), False)
    assert (tally.uploads, nonzero(tally.uploads_total)) == ({}, {})
    assert tally.uploads_finalized_bytes == await b.store.artifact_bytes() == 0


async def test_jobs_are_counted_by_state_and_type_and_ended_ones_for_ever(b: Bench) -> None:
    for number, status in enumerate(JobStatus, 1):
        await b.job_in(status, number)
    agent = await b.job_in(S.RUNNING, 20, type=A)
    failed = await b.job_in(S.RUNNING, 21)
    await b.move(failed, T.FAIL, outcome=Outcome(exit_code=137, error="oom_killed"))
    await b.store.set_draining(True, at=AT)
    tally = await b.store.tally()
    assert nonzero(tally.active) == {
        (S.PENDING, W): 1,
        (S.STARTING, W): 1,
        (S.RUNNING, W): 1,
        (S.RUNNING, A): 1,
    }
    assert tally.reserved == await b.store.reserved() == Reserved(cpus=8, memory_gb=16, jobs=4)
    assert tally.draining
    assert nonzero(tally.created) == {W: 10, A: 1}
    assert nonzero(tally.ended) == {
        Ended(type=W, status=S.COMPLETED, reason=""): 1,
        Ended(type=W, status=S.TIMED_OUT, reason=""): 1,
        # One is cancelled; two were, before they were cleaned.
        Ended(type=W, status=S.CANCELLED, reason=""): 3,
        Ended(type=W, status=S.FAILED, reason="exit_code"): 1,
        Ended(type=W, status=S.FAILED, reason="oom_killed"): 1,
    }
    await b.move(agent, T.FAIL, outcome=Outcome(error="git_push_failed"))
    again = await b.store.tally()
    assert again.ended[Ended(type=A, status=S.FAILED, reason="git_push_failed")] == 1


async def test_a_move_that_is_refused_is_not_counted(b: Bench) -> None:
    job = await b.submit()
    call = b.store.advance(job.id, S.RUNNING, T.SUCCEED, Step(why="", at=AT))
    await b.refuses(StaleState, None, call)
    tally = await b.store.tally()
    assert (nonzero(tally.created), nonzero(tally.ended)) == ({W: 1}, {})


async def test_uploads_are_counted_as_they_move(b: Bench) -> None:
    await b.finalized("upload_aaaaaaaaaaaa", size=100)
    await b.finalized("upload_bbbbbbbbbbbb", size=30)
    await b.store.reserve("upload_cccccccccccc", project=None, at=AT, expires_at=later(30))
    await b.store.adopt("upload_dddddddddddd", at=AT, expires_at=later(30))
    await b.store.adopt("upload_dddddddddddd", at=AT, expires_at=later(30))
    await b.store.expire("upload_dddddddddddd", at=later(3))
    await b.complete("upload_aaaaaaaaaaaa", size=100)  # repeated: nothing new
    job = await b.submit(files_id="upload_bbbbbbbbbbbb")
    for trigger in (T.LAUNCH, T.STARTED):
        job = await b.move(job, trigger)
    tally = await b.store.tally()
    assert tally.uploads == {UploadState.FINALIZED: (1, 100), UploadState.UPLOADING: (1, 0)}
    assert tally.uploads_finalized_bytes == 130
    assert nonzero(tally.uploads_total) == {
        UploadState.UPLOADING: 4,
        UploadState.FINALIZED: 2,
        UploadState.CONSUMED: 1,
        UploadState.EXPIRED: 1,
    }
    await b.store.drop_expired(before=later(100))
    kept = await b.store.tally()
    assert kept.uploads_total == tally.uploads_total


async def test_artifacts_count_until_they_are_deleted(b: Bench) -> None:
    def artifact(name: str, size: int) -> Artifact:
        return Artifact(name=name, type="file", size_bytes=size, sha256=None, created_at=AT)

    for number, sizes in ((1, (5, 7)), (2, (11,))):
        job = await b.job_in(S.RUNNING, number)
        found = tuple(artifact(f"a{size}", size) for size in sizes)
        await b.move(job, T.SUCCEED, artifacts=found)
    assert await b.store.artifact_bytes() == 23
    await b.store.note("j00001", Note(artifacts_deleted_at=later(60)))
    assert await b.store.artifact_bytes() == 11
