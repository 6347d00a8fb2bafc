"""One suite for both stores: what :mod:`flashpods.ports` promises of uploads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from store_bench import AT, HOST, STORES, UPLOAD, Bench, S, T, later, new_job, open_bench

from flashpods.errors import (
    Conflict,
    Gone,
    InsufficientResources,
    InsufficientStorage,
    NotFound,
    StaleState,
)
from flashpods.jobs.model import Capacity, UploadState
from flashpods.jobs.states import JobStatus, Trigger


@pytest.fixture(params=STORES)
async def b(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    async with open_bench(request.param, tmp_path) as bench:
        yield bench


# --------------------------------------------------------------------------- uploads and jobs


async def test_submit_claims_a_finalized_upload_once(b: Bench) -> None:
    await b.finalized()
    job = await b.submit(files_id=UPLOAD)
    upload = await b.store.get_upload(UPLOAD)
    assert (upload.state, upload.job_id) == (UploadState.FINALIZED, job.id)
    call = b.store.submit(new_job(2, files_id=UPLOAD), capacity=HOST, at=AT)
    await b.refuses(Conflict, "upload_already_consumed", call)


async def test_ten_posts_of_one_upload_make_one_job(b: Bench) -> None:
    await b.finalized()
    calls = (
        b.store.submit(new_job(n, files_id=UPLOAD), capacity=HOST, at=AT) for n in range(1, 11)
    )
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(r, tuple) for r in results) == 1
    assert sum(isinstance(r, Conflict) for r in results) == 9


async def test_submit_refuses_an_upload_by_its_state(b: Bench) -> None:
    def post(at: datetime = AT) -> Any:
        return b.store.submit(new_job(9, files_id=UPLOAD), capacity=HOST, at=at)

    await b.refuses(NotFound, "upload_not_found", post())
    await b.store.reserve(UPLOAD, project=None, at=AT, expires_at=later(30))
    await b.refuses(Conflict, "upload_not_finalized", post())
    await b.store.begin_finalize(UPLOAD, at=AT)
    await b.refuses(Conflict, "upload_not_finalized", post())
    await b.complete()
    await b.refuses(NotFound, "upload_not_found", post(at=later(62)))  # its time is over
    await b.store.expire(UPLOAD, at=AT)
    await b.refuses(NotFound, "upload_not_found", post())


async def test_a_refused_job_leaves_the_upload_unclaimed(b: Bench) -> None:
    await b.finalized()
    none = Capacity(cpus=1, memory_gb=1)
    call = b.store.submit(new_job(files_id=UPLOAD), capacity=none, at=AT)
    await b.refuses(InsufficientResources, "insufficient_resources", call)
    await b.submit(files_id=UPLOAD)


async def test_started_consumes_the_upload(b: Bench) -> None:
    await b.finalized()
    job = await b.job_in(S.STARTING, files_id=UPLOAD)
    assert (await b.store.get_upload(UPLOAD)).state is UploadState.FINALIZED
    await b.move(job, T.STARTED, at=later(7))
    upload = await b.store.get_upload(UPLOAD)
    assert (upload.state, upload.consumed_at) == (UploadState.CONSUMED, later(7))
    assert (upload.expires_at, upload.job_id) == (None, job.id)
    call = b.store.submit(new_job(9, files_id=UPLOAD), capacity=HOST, at=AT)
    await b.refuses(Conflict, "upload_already_consumed", call)


@pytest.mark.parametrize("trigger", [T.FAIL, T.CANCEL])
@pytest.mark.parametrize("status", [S.PENDING, S.STARTING])
async def test_a_job_that_never_ran_expires_its_upload(
    b: Bench, status: JobStatus, trigger: Trigger
) -> None:
    await b.finalized()
    job = await b.job_in(status, files_id=UPLOAD)
    await b.move(job, trigger)
    assert (await b.store.get_upload(UPLOAD)).state is UploadState.EXPIRED


async def test_an_end_leaves_a_consumed_upload_consumed(b: Bench) -> None:
    await b.finalized()
    job = await b.job_in(S.RUNNING, files_id=UPLOAD)
    await b.move(job, T.SUCCEED)
    assert (await b.store.get_upload(UPLOAD)).state is UploadState.CONSUMED


# --------------------------------------------------------------------------- uploads


async def test_reserve_once(b: Bench) -> None:
    upload = await b.store.reserve(UPLOAD, project="proj", at=AT, expires_at=later(30))
    assert upload == await b.store.get_upload(UPLOAD)
    assert (upload.state, upload.project, upload.job_id) == (UploadState.UPLOADING, "proj", None)
    assert (upload.created_at, upload.expires_at) == (AT, later(30))
    assert (upload.finalizing_at, upload.size_bytes, upload.file_count) == (None, None, None)
    call = b.store.reserve(UPLOAD, project=None, at=later(1), expires_at=later(31))
    await b.refuses(Conflict, "upload_exists", call)


async def test_adopt_keeps_a_row_that_is_there(b: Bench) -> None:
    upload = await b.store.adopt(UPLOAD, at=AT, expires_at=later(30))
    assert (upload.state, upload.project, upload.created_at) == (UploadState.UPLOADING, None, AT)
    assert await b.store.adopt(UPLOAD, at=later(5), expires_at=later(35)) == upload


async def test_uploads_by_state_oldest_first(b: Bench) -> None:
    names = [f"upload_{n:012d}" for n in range(4)]
    for minutes, name in zip((3, 1, 2, 0), names, strict=True):
        await b.store.adopt(name, at=later(minutes), expires_at=later(60))
    await b.store.expire(names[2], at=AT)
    assert [u.id for u in await b.store.uploads("uploading")] == [names[3], names[1], names[0]]
    assert len(await b.store.uploads("uploading", "expired")) == 4
    assert await b.store.uploads() == []


async def test_finalize(b: Bench) -> None:
    await b.store.reserve(UPLOAD, project="p", at=AT, expires_at=later(30))
    begun = await b.store.begin_finalize(UPLOAD, at=later(1))
    assert (begun.state, begun.finalizing_at) == (UploadState.UPLOADING, later(1))
    again = await b.store.begin_finalize(UPLOAD, at=later(40))  # repeated after a crash
    assert again == replace(begun, finalizing_at=later(40))
    done = await b.complete()
    assert done == await b.store.get_upload(UPLOAD)
    assert (done.state, done.size_bytes, done.file_count) == (UploadState.FINALIZED, 100, 3)
    assert (done.finalized_at, done.expires_at) == (later(2), later(62))
    assert done.finalizing_at is None
    assert await b.complete(size=5, quota=1) == done  # repeated
    await b.refuses(
        Conflict, "upload_already_finalized", b.store.begin_finalize(UPLOAD, at=later(3))
    )
    await b.refuses(Gone, "upload_expired", b.store.begin_finalize(UPLOAD, at=later(62)))


async def test_finalize_refuses_by_state(b: Bench) -> None:
    def begin(at: datetime = AT) -> Any:
        return b.store.begin_finalize(UPLOAD, at=at)

    await b.refuses(NotFound, "upload_not_found", begin())
    await b.store.adopt(UPLOAD, at=AT, expires_at=later(30))
    b.begin_transfer(UPLOAD)
    await b.refuses(Conflict, "upload_in_progress", begin())
    b.end_transfer(UPLOAD)
    await b.refuses(Gone, "upload_expired", begin(at=later(30)))
    await b.store.expire(UPLOAD, at=AT)
    await b.refuses(Gone, "upload_expired", begin())
    for number, status in enumerate((S.PENDING, S.RUNNING), start=1):
        other = f"upload_of_a_job_{number}"
        await b.finalized(other)
        await b.job_in(status, number, files_id=other)
        call = b.store.begin_finalize(other, at=AT)
        await b.refuses(Conflict, "upload_already_consumed", call)


async def test_abort_opens_it_again(b: Bench) -> None:
    await b.store.abort_finalize("nope")
    fresh = await b.store.adopt(UPLOAD, at=AT, expires_at=later(30))
    await b.store.begin_finalize(UPLOAD, at=AT)
    await b.store.abort_finalize(UPLOAD)
    assert await b.store.get_upload(UPLOAD) == fresh
    await b.refuses(StaleState, "stale_state", b.complete())
    await b.store.begin_finalize(UPLOAD, at=AT)
    done = await b.complete()
    await b.store.abort_finalize(UPLOAD)
    assert await b.store.get_upload(UPLOAD) == done


async def test_complete_refuses_over_the_total_quota(b: Bench) -> None:
    await b.finalized("upload_number_one", size=600)
    await b.store.adopt(UPLOAD, at=AT, expires_at=later(30))
    await b.store.begin_finalize(UPLOAD, at=AT)
    error = await b.refuses(InsufficientStorage, "insufficient_storage", b.complete(size=401))
    assert error.details == {"size_bytes": 401, "stored_bytes": 600, "limit_bytes": 1000}
    await b.complete(size=400)


async def test_consumed_uploads_do_not_count_for_the_quota(b: Bench) -> None:
    await b.finalized("upload_number_one", size=900)
    await b.job_in(S.RUNNING, files_id="upload_number_one")
    await b.finalized(size=900)


async def test_complete_refuses_what_is_gone(b: Bench) -> None:
    await b.refuses(NotFound, "upload_not_found", b.complete())
    await b.store.adopt(UPLOAD, at=AT, expires_at=later(30))
    await b.store.begin_finalize(UPLOAD, at=AT)
    assert await b.store.expire(UPLOAD, at=AT) is None, "a finalize is at work on it"
    await b.store.expire(UPLOAD, at=later(6))  # it has died meanwhile
    await b.refuses(Gone, "upload_expired", b.complete())


async def test_expire(b: Bench) -> None:
    assert await b.store.expire("nope", at=AT) is None
    await b.store.adopt(UPLOAD, at=AT, expires_at=later(30))
    b.begin_transfer(UPLOAD)
    before = await b.everything()
    assert await b.store.expire(UPLOAD, at=AT) is None
    assert await b.everything() == before
    b.end_transfer(UPLOAD)
    gone = await b.store.expire(UPLOAD, at=AT)
    assert (gone.state, gone.expires_at) == (UploadState.EXPIRED, None)
    assert await b.store.expire(UPLOAD, at=later(1)) == gone
    await b.finalized("upload_number_two")
    assert (await b.store.expire("upload_number_two", at=AT)).state is UploadState.EXPIRED


@pytest.mark.parametrize("status", list(JobStatus))
async def test_a_claimed_upload_never_expires_under_its_job(b: Bench, status: JobStatus) -> None:
    await b.finalized()
    await b.job_in(status, files_id=UPLOAD)
    state = (await b.store.get_upload(UPLOAD)).state
    expired = await b.store.expire(UPLOAD, at=AT)
    assert (await b.store.get_upload(UPLOAD)).state is state
    assert (expired is None) is (state is not UploadState.EXPIRED)


async def test_drop_expired_deletes_old_rows_only(b: Bench) -> None:
    await b.store.adopt("upload_still_open", at=AT, expires_at=later(30))
    await b.store.adopt("upload_expired_1", at=AT, expires_at=later(30))
    await b.store.expire("upload_expired_1", at=later(1))
    await b.finalized("upload_consumed_1")
    await b.job_in(S.RUNNING, files_id="upload_consumed_1")  # consumed at later(1)
    assert await b.store.drop_expired(before=later(1)) == 0
    assert await b.store.drop_expired(before=later(2)) == 2
    assert [u.id for u in await b.store.uploads(*UploadState)] == ["upload_still_open"]
