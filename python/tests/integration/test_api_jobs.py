"""``/jobs`` over HTTP: submit, list, look, wait, cancel."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from api_rig import WORKER, Rig, make_rig, refused, waiting_in

from flashpods.jobs.model import Note, Outcome, Phase
from flashpods.jobs.states import ACTIVE, JobStatus, Trigger


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return make_rig(tmp_path)


async def test_submit_says_what_was_granted(rig: Rig) -> None:
    async with rig.client() as client:
        answer = await client.post("/jobs", json={**WORKER, "cpus": 64, "timeout_minutes": 5})
        body = answer.json()
        assert answer.status_code == 201
        assert answer.headers["location"] == f"/jobs/{body['job_id']}"
        assert body == {
            "job_id": body["job_id"],
            "status": "pending",
            "created": True,
            "granted": {"cpus": 8, "memory_gb": 4, "timeout_minutes": 5},
            "warnings": ["cpus 64 is above the maximum; granted 8"],
        }


async def test_same_key_is_the_same_job(rig: Rig) -> None:
    key = str(uuid.uuid4())
    async with rig.client() as client:
        posts = [
            client.post("/jobs", json={**WORKER, "client_job_id": k}) for k in (key, key.upper())
        ]
        first, second = await asyncio.gather(*posts)
        assert (first.status_code, second.status_code) == (201, 200)
        assert first.json()["job_id"] == second.json()["job_id"]
        assert second.json()["created"] is False
        other = {**WORKER, "command": "other", "client_job_id": key}
        refused(await client.post("/jobs", json=other), 409, "idempotency_conflict")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "application/json"),
        (b"{", "application/json"),
        (b"[]", "application/json"),
        (b"null", "application/json"),
        (b'{"type":"worker","command":NaN}', "application/json"),
        (b'{"type":"worker","command":"\\ud800"}', "application/json"),
        (b"[" * 2000, "application/json"),
        (b"\xff\xfe", "application/json"),
        (b"type=worker", "application/x-www-form-urlencoded"),
        (b'{"type":"worker","command":"x"}', "text/plain"),
    ],
)
async def test_what_is_not_json_is_refused(rig: Rig, content: bytes, kind: str) -> None:
    async with rig.client() as client:
        answer = await client.post("/jobs", content=content, headers={"Content-Type": kind})
        assert answer.status_code == 400
        assert answer.json()["error"] in {"invalid_request", "invalid_job_type"}
    assert await rig.store.active() == []


async def test_validation_codes_pass_through(rig: Rig) -> None:
    async with rig.client() as client:
        for body, status, code in (
            ({"type": "x"}, 400, "invalid_job_type"),
            ({"type": "worker"}, 400, "missing_command"),
            ({"type": "agent"}, 400, "missing_task"),
            ({"type": "agent", "task": "t"}, 400, "missing_git_branch"),
            ({**WORKER, "client_job_id": "1"}, 400, "invalid_client_job_id"),
            ({**WORKER, "image": "A B"}, 400, "invalid_image"),
            ({**WORKER, "image": "dir:x"}, 400, "invalid_image"),
            ({**WORKER, "image": "docker://ubuntu:22.04"}, 400, "invalid_image"),
            ({**WORKER, "cpus": 0}, 400, "invalid_cpus"),
            ({**WORKER, "memory_gb": 1.5}, 400, "invalid_memory"),
            ({**WORKER, "timeout_minutes": True}, 400, "invalid_timeout"),
            ({**WORKER, "colour": "red"}, 400, "invalid_request"),
            ({**WORKER, "files_id": "upload_000000000000"}, 404, "upload_not_found"),
        ):
            refused(await client.post("/jobs", json=body), status, code)
    assert await rig.store.active() == []


async def test_full_host_full_disk_and_draining(rig: Rig) -> None:
    async with rig.client() as client:
        assert (await client.post("/jobs", json={**WORKER, "cpus": 7})).status_code == 201
        body = refused(
            await client.post("/jobs", json={**WORKER, "cpus": 2}), 429, "insufficient_resources"
        )
        assert body["requested"] == {"cpus": 2, "memory_gb": 4}
        assert body["available"] == {"cpus": 1, "memory_gb": 28}
        assert body["host_capacity"] == {"cpus": 8, "memory_gb": 32}
        assert body["running_jobs"] == 1
        rig.disk.fractions["/work"] = 0.9
        small = {**WORKER, "cpus": 1}
        refused(await client.post("/jobs", json=small), 507, "insufficient_storage")
        rig.disk.fractions["/work"] = 0.1
        await rig.store.set_draining(True, at=rig.clock.now())
        answer = await client.post("/jobs", json=small)
        refused(answer, 503, "service_unavailable")
        assert answer.headers["retry-after"] == "30"
        rig.clock.advance(2)
        assert (await client.get("/health")).json()["draining"] is True
        capacity = (await client.get("/capacity")).json()
        assert capacity == {
            "host": {"cpus": 8, "memory_gb": 32},
            "reserved": {"cpus": 7, "memory_gb": 4},
            "available": {"cpus": 1, "memory_gb": 28},
            "running_jobs": 1,
            "reserve": {"cpus": 0, "memory_gb": 0},
            "draining": True,
        }


async def test_the_row(rig: Rig) -> None:
    job_id = await rig.running()
    rig.clock.advance(1.5)
    async with rig.client() as client:
        row = (await client.get(f"/jobs/{job_id}")).json()
        assert row["elapsed_seconds"] == 1.5
        assert "duration_seconds" not in row
        assert row["created_at"] == "2026-11-24T09:30:00Z"
        assert (row["status"], row["phase"], row["cancel_requested"]) == ("running", None, False)
        assert [(e["from"], e["to"]) for e in row["events"]] == [
            (None, "pending"),
            ("pending", "starting"),
            ("starting", "running"),
        ]
        await rig.end(job_id, Trigger.TIME_OUT, exit_code=137, error="Job exceeded timeout limit")
        row = (await client.get(f"/jobs/{job_id}")).json()
        assert row["duration_seconds"] == row["actual_runtime_seconds"] == 1.5
        assert "elapsed_seconds" not in row
        assert (row["exit_code"], row["error"]) == (137, "Job exceeded timeout limit")


@pytest.mark.parametrize(
    "job_id", ["0" * 16, "0" * 15, "0" * 17, "A" * 16, "%2e%2e", "x%00y", "%ff" * 16]
)
async def test_unknown_jobs(rig: Rig, job_id: str) -> None:
    async with rig.client() as client:
        for method, tail in (
            ("GET", ""),
            ("DELETE", ""),
            ("GET", "/output"),
            ("GET", "/output?follow=true"),
            ("GET", "/artifacts"),
            ("GET", "/artifacts/a"),
        ):
            refused(await client.request(method, f"/jobs/{job_id}{tail}"), 404, "job_not_found")


@pytest.mark.parametrize("status", list(JobStatus))
async def test_lists_by_state(rig: Rig, status: JobStatus) -> None:
    ids = {s: await rig.in_state(s) for s in JobStatus}
    async with rig.client() as client:

        async def listed(query: str) -> list[str]:
            answer = await client.get(f"/jobs?{query}")
            assert answer.status_code == 200, answer.text
            body = answer.json()
            assert body["total"] == len(body["jobs"])
            return [row["id"] for row in body["jobs"]]

        newest_first = list(reversed(ids.values()))
        assert await listed(f"status={status.value}") == [ids[status]]
        assert await listed("status=all") == await listed("") == newest_first
        assert set(await listed("status=active")) == {ids[s] for s in ACTIVE}
        both = await listed(f"status=active&status={status.value}")
        assert set(both) == {ids[s] for s in ACTIVE | {status}}


async def test_paging_meets_each_job_once(rig: Rig) -> None:
    jobs = [await rig.in_state(JobStatus.FAILED) for _ in range(7)]
    async with rig.client() as client:
        seen, cursor = [], ""
        for _ in range(4):
            body = (await client.get(f"/jobs?limit=2{cursor}")).json()
            assert body["total"] == 7
            seen += [row["id"] for row in body["jobs"]]
            cursor = f"&cursor={body['next_cursor']}"
        assert body["next_cursor"] is None
        assert seen == jobs[::-1]


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=101",
        "limit=-1",
        "limit=1.0",
        "limit=",
        "limit=%D9%A1",
        "limit=1&limit=1",
        "limit=" + "9" * 30,
        "status=",
        "status=done",
        "status=COMPLETED",
        "cursor=",
        "cursor=1",
        "cursor=%ff",
        "cursor=czE%3D",
        "colour=red",
        "&".join("status=all" for _ in range(65)),
    ],
)
async def test_bad_lists(rig: Rig, query: str) -> None:
    async with rig.client() as client:
        refused(await client.get(f"/jobs?{query}"), 400, "invalid_request")


@pytest.mark.parametrize("query", ["wait=61", "wait=-1", "wait=x", "wait=nan", "wait=1e1", "w=1"])
async def test_bad_waits(rig: Rig, query: str) -> None:
    job_id = await rig.running()
    async with rig.client() as client:
        refused(await client.get(f"/jobs/{job_id}?{query}"), 400, "invalid_request")


async def test_wait_answers_on_change(rig: Rig) -> None:
    job_id = await rig.job()
    async with rig.client() as client, asyncio.timeout(30):
        moves: list[tuple[Callable[[], Awaitable[object]], tuple[str, str | None]]] = [
            (lambda: rig.move(job_id, Trigger.LAUNCH), ("starting", None)),
            (lambda: rig.store.note(job_id, Note(phase=Phase.PULLING)), ("starting", "pulling")),
            (lambda: rig.move(job_id, Trigger.STARTED), ("running", None)),
        ]
        for move, expected in moves:
            waiting = asyncio.create_task(client.get(f"/jobs/{job_id}?wait=60"))
            await waiting_in(rig)
            await move()
            rig.changes.publish(job_id)
            row = (await waiting).json()
            assert (row["status"], row["phase"]) == expected
        assert len(rig.app.context.held) == 0


async def test_wait_sees_what_another_process_changed(rig: Rig) -> None:
    job_id = await rig.running()
    async with rig.client() as client, asyncio.timeout(30):
        waiting = asyncio.create_task(client.get(f"/jobs/{job_id}?wait=60"))
        await waiting_in(rig)
        await rig.move(job_id, Trigger.SUCCEED, publish=False, outcome=Outcome(exit_code=0))
        assert (await waiting).json()["status"] == "completed"


async def test_wait_ends_in_time_and_when_we_stop(rig: Rig) -> None:
    job_id = await rig.running()
    async with rig.client() as client, asyncio.timeout(30):
        assert (await client.get(f"/jobs/{job_id}?wait=0.05")).json()["status"] == "running"
        waiting = asyncio.create_task(client.get(f"/jobs/{job_id}?wait=60"))
        await waiting_in(rig)
        rig.app.context.held.close()
        assert (await waiting).json()["status"] == "running"
        refused(await client.get(f"/jobs/{job_id}?wait=60"), 503, "service_unavailable")
        assert (await client.get(f"/jobs/{job_id}")).status_code == 200


async def test_waiting_for_an_ended_job_answers_at_once(rig: Rig) -> None:
    job_id = await rig.in_state(JobStatus.FAILED)
    async with rig.client() as client, asyncio.timeout(30):
        assert (await client.get(f"/jobs/{job_id}?wait=60")).json()["status"] == "failed"


async def test_cancel_is_recorded_and_repeatable(rig: Rig) -> None:
    job_id = await rig.running()
    async with rig.client() as client:
        for _ in range(2):
            answer = await client.delete(f"/jobs/{job_id}")
            assert answer.status_code == 200
            assert answer.json() == {"job_id": job_id, "status": "cancelled"}
            row = (await client.get(f"/jobs/{job_id}")).json()
            assert (row["status"], row["cancel_requested"]) == ("running", True)
        await rig.end(job_id, Trigger.CANCEL, exit_code=137)
        refused(await client.delete(f"/jobs/{job_id}"), 409, "job_already_terminal")


async def test_since_misses_no_change_between_two_calls(rig: Rig) -> None:
    job_id = await rig.job()
    async with rig.client() as client, asyncio.timeout(30):
        known = (await client.get(f"/jobs/{job_id}")).json()["revision"]
        assert known == "pending"
        seen = [known]
        for move in (
            lambda: rig.move(job_id, Trigger.LAUNCH),
            lambda: rig.store.note(job_id, Note(phase=Phase.PULLING)),
            lambda: rig.move(job_id, Trigger.STARTED),
            lambda: client.delete(f"/jobs/{job_id}"),
        ):
            await move()  # nobody waits yet
            row = (await client.get(f"/jobs/{job_id}?wait=60&since={known}")).json()
            known = row["revision"]
            seen.append(known)
        assert seen == [
            "pending", "starting", "starting.pulling", "running", "running.cancelling",
        ]  # fmt: skip
        waiting = asyncio.create_task(client.get(f"/jobs/{job_id}?wait=60&since={known}"))
        await waiting_in(rig)
        await rig.end(job_id, Trigger.CANCEL, exit_code=137)
        rig.changes.publish(job_id)
        assert (await waiting).json()["revision"] == "cancelled.cancelling"


@pytest.mark.parametrize("query", ["since=", "wait=1&since=R", "wait=1&since=" + "a" * 65])
async def test_bad_since(rig: Rig, query: str) -> None:
    job_id = await rig.running()
    async with rig.client() as client:
        refused(await client.get(f"/jobs/{job_id}?{query}"), 400, "invalid_request")
