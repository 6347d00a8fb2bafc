"""One suite for both stores: what :mod:`flashpods.ports` promises of jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from store_bench import AT, HOST, KEY, STORES, Bench, S, T, later, new_job, open_bench

from flashpods.errors import (
    Conflict,
    InsufficientResources,
    InsufficientStorage,
    NotFound,
    StaleState,
    Unavailable,
)
from flashpods.jobs.model import (
    Artifact,
    Capacity,
    Job,
    JobFate,
    Note,
    Outcome,
    Phase,
    Reserved,
    Step,
)
from flashpods.jobs.states import ACTIVE, ENDED, TRANSITIONS, IllegalTransition, JobStatus, Trigger


@pytest.fixture(params=STORES)
async def b(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    async with open_bench(request.param, tmp_path) as bench:
        yield bench


# --------------------------------------------------------------------------- submit


async def test_submit_makes_a_pending_job_with_its_first_event(b: Bench) -> None:
    job = await b.submit(client_job_id=KEY, warnings=("cpus 99 is above",), context="c\n€\0")
    assert job == await b.store.get(job.id)
    assert (job.status, job.phase, job.seq) == (S.PENDING, None, 1)
    assert (job.cpus, job.memory_gb, job.timeout_minutes) == (2, 4, 30)
    assert (job.created_at, job.started_at, job.completed_at) == (AT, None, None)
    assert (job.client_job_id, job.warnings, job.context) == (KEY, ("cpus 99 is above",), "c\n€\0")
    (event,) = await b.store.events(job.id)
    assert (event.from_status, event.to_status, event.at) == (None, S.PENDING, AT)
    assert event.why


async def test_times_are_cut_to_milliseconds(b: Bench) -> None:
    precise = AT + timedelta(microseconds=456)
    job, _ = await b.store.submit(new_job(), capacity=HOST, at=precise)
    assert job.created_at == AT


async def test_an_unknown_id_is_none_or_empty(b: Bench) -> None:
    assert await b.store.get("nope") is None
    assert await b.store.events("nope") == []
    assert await b.store.history("nope") is None
    assert await b.store.artifacts("nope") == []
    assert await b.store.get_upload("nope") is None


async def test_the_same_key_and_request_is_the_same_job(b: Bench) -> None:
    job = await b.submit(client_job_id=KEY)
    before = await b.everything()
    again = new_job(2, client_job_id=KEY, files_id="upload_that_is_not_there")
    assert await b.store.submit(again, capacity=HOST, at=later(1)) == (job, False)
    nothing = Capacity(cpus=0, memory_gb=0)
    assert await b.store.submit(again, capacity=nothing, at=later(1)) == (job, False)
    assert await b.everything() == before


async def test_the_same_key_with_another_request_conflicts(b: Bench) -> None:
    await b.submit(client_job_id=KEY)
    other = new_job(2, client_job_id=KEY, request_sha256="b" * 64)
    call = b.store.submit(other, capacity=HOST, at=AT)
    await b.refuses(Conflict, "idempotency_conflict", call)


@pytest.mark.parametrize("status", list(JobStatus))
async def test_the_key_is_free_once_the_job_is_cleaned(b: Bench, status: JobStatus) -> None:
    job = await b.job_in(status, client_job_id=KEY)
    again, created = await b.store.submit(new_job(2, client_job_id=KEY), capacity=HOST, at=later(5))
    assert created is (status is S.CLEANED)
    assert again.id == ("j00002" if created else job.id)


async def test_fifty_posts_of_one_key_make_one_job(b: Bench) -> None:
    results = await asyncio.gather(
        *(b.store.submit(new_job(n, client_job_id=KEY), capacity=HOST, at=AT) for n in range(1, 51))
    )
    assert sum(created for _, created in results) == 1
    assert len({job.id for job, _ in results}) == 1
    assert (await b.store.page(statuses=None, limit=10, cursor=None)).total == 1


async def test_a_hundred_posts_never_pass_capacity(b: Bench) -> None:
    host = Capacity(cpus=50, memory_gb=60)  # memory for 15 jobs of 4 GB is the tighter one
    results = await asyncio.gather(
        *(b.store.submit(new_job(n), capacity=host, at=AT) for n in range(1, 101)),
        return_exceptions=True,
    )
    refused = [r for r in results if isinstance(r, InsufficientResources)]
    assert (len(results) - len(refused), len(refused)) == (15, 85)
    assert await b.store.reserved() == Reserved(cpus=30, memory_gb=60, jobs=15)
    assert len(await b.store.active()) == 15


async def test_a_full_host_says_what_is_free(b: Bench) -> None:
    await b.submit()
    call = b.store.submit(new_job(2), capacity=Capacity(cpus=3, memory_gb=9), at=AT)
    error = await b.refuses(InsufficientResources, "insufficient_resources", call)
    assert error.extra == {
        "requested": {"cpus": 2, "memory_gb": 4},
        "available": {"cpus": 1, "memory_gb": 5},
        "host_capacity": {"cpus": 3, "memory_gb": 9},
        "running_jobs": 1,
    }


@pytest.mark.parametrize("status", list(JobStatus))
async def test_resources_are_held_by_active_states_only(b: Bench, status: JobStatus) -> None:
    job = await b.job_in(status)
    held = Reserved(cpus=2, memory_gb=4, jobs=1) if status in ACTIVE else Reserved()
    assert await b.store.reserved() == held
    assert await b.store.active() == ([job] if status in ACTIVE else [])


async def test_a_refusal_given_by_the_caller_stands_for_new_jobs_only(b: Bench) -> None:
    job = await b.submit(client_job_id=KEY)
    refuse = InsufficientStorage("the disk is full")
    call = b.store.submit(new_job(2), capacity=HOST, at=AT, refuse=refuse)
    assert await b.refuses(InsufficientStorage, "insufficient_storage", call) is refuse
    again = new_job(3, client_job_id=KEY)
    assert await b.store.submit(again, capacity=HOST, at=AT, refuse=refuse) == (job, False)


async def test_draining_refuses_new_jobs_but_answers_known_keys(b: Bench) -> None:
    job = await b.submit(client_job_id=KEY)
    assert await b.store.draining() is False
    await b.store.set_draining(True, at=AT)
    await b.store.set_draining(True, at=later(1))
    assert await b.store.draining() is True
    call = b.store.submit(new_job(2), capacity=HOST, at=AT)
    await b.refuses(Unavailable, "service_unavailable", call)
    again = await b.store.submit(new_job(3, client_job_id=KEY), capacity=HOST, at=AT)
    assert again == (job, False)
    await b.store.set_draining(False, at=later(2))
    await b.submit(4)


# --------------------------------------------------------------------------- advance


@pytest.mark.parametrize("trigger", list(Trigger))
@pytest.mark.parametrize("status", list(JobStatus))
async def test_every_state_and_trigger(b: Bench, status: JobStatus, trigger: Trigger) -> None:
    job = await b.job_in(status)
    before = await b.store.events(job.id)
    if (status, trigger) not in TRANSITIONS:
        await b.refuses(IllegalTransition, None, b.move(job, trigger))
        return
    target = TRANSITIONS[status, trigger]
    moved = await b.move(job, trigger, why="because", at=later(9))
    assert moved == await b.store.get(job.id)
    assert moved.status is target
    assert moved.started_at == (later(9) if trigger is T.STARTED else job.started_at)
    assert moved.completed_at == (later(9) if target in ENDED else job.completed_at)
    *old, event = await b.store.events(job.id)
    assert old == before
    assert (event.from_status, event.to_status, event.at) == (status, target, later(9))
    assert event.why == "because"


LATE = [
    (status, expected, trigger)
    for status in JobStatus
    for expected, trigger in TRANSITIONS
    if status is not expected
]


@pytest.mark.parametrize(("status", "expected", "trigger"), LATE)
async def test_a_late_caller_changes_nothing(
    b: Bench, status: JobStatus, expected: JobStatus, trigger: Trigger
) -> None:
    job = await b.job_in(status)
    call = b.store.advance(job.id, expected, trigger, Step(why="late", at=later(9)))
    await b.refuses(StaleState, "stale_state", call)


async def test_advance_of_no_job_is_stale(b: Bench) -> None:
    call = b.store.advance("nope", S.PENDING, T.LAUNCH, Step(why="w", at=AT))
    await b.refuses(StaleState, "stale_state", call)


async def test_ten_launches_of_one_job_are_one(b: Bench) -> None:
    job = await b.submit()
    results = await asyncio.gather(
        *(b.move(job, T.LAUNCH) for _ in range(10)), return_exceptions=True
    )
    assert sum(isinstance(r, Job) for r in results) == 1
    assert sum(isinstance(r, StaleState) for r in results) == 9
    assert len(await b.store.events(job.id)) == 2


async def test_advance_sets_phase_container_and_outcome(b: Bench) -> None:
    job = await b.submit()
    job = await b.move(job, T.LAUNCH, phase=Phase.PULLING, container_id="c" * 64)
    assert (job.phase, job.container_id) == (Phase.PULLING, "c" * 64)
    job = await b.move(job, T.STARTED)
    assert (job.phase, job.container_id) == (None, "c" * 64)
    job = await b.move(job, T.FAIL, outcome=Outcome(exit_code=137, error="oom_killed"))
    assert (job.exit_code, job.error) == (137, "oom_killed")
    job = await b.move(job, T.CLEAN)
    assert (job.exit_code, job.error) == (137, "oom_killed")


def artifact(name: str) -> Artifact:
    return Artifact(name=name, type="file", size_bytes=3, sha256="f" * 64, created_at=AT)


async def test_an_end_replaces_the_artifacts_and_cleaned_drops_them(b: Bench) -> None:
    job = await b.job_in(S.RUNNING)
    directory = Artifact(name="dir", type="directory", size_bytes=9, sha256=None, created_at=AT)
    job = await b.move(job, T.SUCCEED, artifacts=(artifact("z"), directory, artifact("a €")))
    assert await b.store.artifacts(job.id) == [artifact("a €"), directory, artifact("z")]
    job = await b.move(job, T.CLEAN)
    assert len(await b.store.artifacts(job.id)) == 3
    await b.move(job, T.CLEANED)
    assert await b.store.artifacts(job.id) == []


# --------------------------------------------------------------------------- note, cancel


async def test_note_changes_only_what_it_is_given(b: Bench) -> None:
    job = await b.job_in(S.STARTING)
    noted = await b.store.note(job.id, Note(phase=Phase.PULLING, warnings=("one",)))
    assert noted == replace(job, phase=Phase.PULLING, warnings=("one",))
    more = Note(warnings=("two", "one"), log_deleted_at=later(1))
    noted = await b.store.note(job.id, more)
    assert noted.warnings == ("one", "two")  # recovery may say the same again
    noted = await b.store.note(job.id, Note(artifacts_deleted_at=later(2)))
    assert (noted.log_deleted_at, noted.artifacts_deleted_at) == (later(1), later(2))
    assert noted.phase is Phase.PULLING
    assert noted == await b.store.get(job.id)
    assert len(await b.store.events(job.id)) == 2


async def test_warnings_are_bounded(b: Bench) -> None:
    job = await b.submit()
    noted = await b.store.note(job.id, Note(warnings=tuple(map(str, range(2000)))))
    assert len(noted.warnings) == 500


async def test_note_of_no_job_is_not_found(b: Bench) -> None:
    await b.refuses(NotFound, "job_not_found", b.store.note("nope", Note(warnings=("w",))))


@pytest.mark.parametrize("status", list(JobStatus))
async def test_cancel_is_recorded_once_for_active_jobs(b: Bench, status: JobStatus) -> None:
    job = await b.job_in(status)
    call = b.store.request_cancel(job.id, at=later(3))
    if status not in ACTIVE:
        await b.refuses(Conflict, "job_already_terminal", call)
        return
    cancelled = await call
    assert cancelled == replace(job, cancel_requested_at=later(3))
    assert await b.store.request_cancel(job.id, at=later(4)) == cancelled


@pytest.mark.parametrize(("status", "trigger"), [e for e in TRANSITIONS if e[0] in ACTIVE])
async def test_a_recorded_cancel_decides_the_end(
    b: Bench, status: JobStatus, trigger: Trigger
) -> None:
    job = await b.job_in(status)
    job = await b.store.request_cancel(job.id, at=later(3))
    target = TRANSITIONS[status, trigger]
    if target in ENDED and trigger is not T.CANCEL:
        error = await b.refuses(StaleState, "stale_state", b.move(job, trigger))
        assert "cancel" in error.message
    else:
        assert (await b.move(job, trigger)).status is target


async def test_cancel_of_no_job_is_not_found(b: Bench) -> None:
    await b.refuses(NotFound, "job_not_found", b.store.request_cancel("nope", at=AT))


# --------------------------------------------------------------------------- lists


async def test_pages_are_newest_first_and_complete(b: Bench) -> None:
    for n in range(1, 8):
        await b.submit(n)
    seen: list[str] = []
    cursor = None
    while True:
        page = await b.store.page(statuses=None, limit=3, cursor=cursor)
        assert page.total == 7
        seen += [job.id for job in page.jobs]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == [f"j{n:05d}" for n in range(7, 0, -1)]
    exact = await b.store.page(statuses=None, limit=7, cursor=None)
    assert exact.next_cursor is None


async def test_pages_by_state(b: Bench) -> None:
    for n, status in enumerate([*JobStatus, *JobStatus, *JobStatus], 1):
        await b.job_in(status, n)
    for status in JobStatus:
        page = await b.store.page(statuses=[status], limit=2, cursor=None)
        assert (len(page.jobs), page.total) == (2, 3)
        rest = await b.store.page(statuses=[status], limit=2, cursor=page.next_cursor)
        assert (len(rest.jobs), rest.total, rest.next_cursor) == (1, 3, None)
        assert {job.status for job in (*page.jobs, *rest.jobs)} == {status}
    wanted = [S.RUNNING, S.PENDING, S.RUNNING]
    page = await b.store.page(statuses=wanted, limit=4, cursor=None)
    assert (page.total, [job.status for job in page.jobs]) == (
        6,
        [S.RUNNING, S.PENDING, S.RUNNING, S.PENDING],
    )
    assert [job.seq for job in page.jobs] == sorted((j.seq for j in page.jobs), reverse=True)
    rest = await b.store.page(statuses=wanted, limit=4, cursor=page.next_cursor)
    assert ([job.status for job in rest.jobs], rest.next_cursor) == ([S.RUNNING, S.PENDING], None)
    none = await b.store.page(statuses=[], limit=4, cursor=None)
    assert (none.jobs, none.total, none.next_cursor) == ([], 0, None)


async def test_active_is_oldest_first(b: Bench) -> None:
    for n, status in enumerate([S.RUNNING, S.FAILED, S.PENDING, S.STARTING], 1):
        await b.job_in(status, n)
    assert [job.id for job in await b.store.active()] == ["j00001", "j00003", "j00004"]


async def test_known_returns_those_that_exist(b: Bench) -> None:
    first, second = await b.submit(1), await b.submit(2)
    assert await b.store.known([second.id, "nope", first.id]) == {
        first.id: first,
        second.id: second,
    }
    assert await b.store.known([]) == {}


async def test_fates_are_of_those_that_exist(b: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flashpods.adapters.sqlite.store.FATES_AT_ONCE", 2)
    rows = [await b.job_in(S.FAILED, 1), await b.submit(2), await b.submit(3)]
    rows[0] = await b.store.note(rows[0].id, Note(log_deleted_at=later(5)))
    assert await b.store.fates([rows[0].id, "nope", rows[2].id, rows[1].id]) == {
        row.id: JobFate(
            row.seq, row.status, row.completed_at, row.log_deleted_at, row.artifacts_deleted_at
        )
        for row in rows
    }
    assert await b.store.fates([]) == {}


async def test_ended_returns_old_ended_and_cleaning_jobs(b: Bench) -> None:
    for n, status in enumerate(JobStatus, 1):
        await b.job_in(status, n)
    wanted = {S.COMPLETED, S.FAILED, S.TIMED_OUT, S.CANCELLED, S.CLEANING}
    assert {j.status for j in await b.store.ended(before=later(2), limit=10)} == wanted
    assert await b.store.ended(before=later(1), limit=10) == []
    assert len(await b.store.ended(before=later(2), limit=2)) == 2
    old = await b.move(await b.submit(90), T.FAIL, at=later(0.5))
    assert (await b.store.ended(before=later(2), limit=1)) == [old]


async def test_ended_leaves_out_what_is_deleted_already(b: Bench) -> None:
    jobs = [await b.job_in(S.FAILED, n) for n in (1, 2, 3)]
    await b.store.note(jobs[0].id, Note(log_deleted_at=later(2)))
    await b.store.note(jobs[1].id, Note(artifacts_deleted_at=later(2)))
    found = {
        kept: [j.id for j in await b.store.ended(before=later(2), limit=9, kept=kept)]
        for kept in (None, "log", "artifacts")
    }
    one, two, three = (job.id for job in jobs)
    assert found == {None: [one, two, three], "log": [two, three], "artifacts": [one, three]}


async def test_ping(b: Bench) -> None:
    await b.store.ping()
