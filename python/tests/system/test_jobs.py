"""Jobs on real containers: how they end, how they are admitted, how they are cancelled."""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from inspection import ROOMY, no_containers, rows
from running_api import ApiFactory, RunningApi, SharedStack
from support import SECONDS, ended, output, run, says, submit, texts, true_soon, until

from flashpods.adapters.podman.runtime import PodmanRuntime
from flashpods.ports import ContainerSpec, ContainerState, Limits


@pytest.fixture
async def client(stack: SharedStack) -> Any:
    async with stack.new_client() as client:
        yield client


# ------------------------------------------------------------------ how a job ends


@pytest.mark.parametrize(
    ("command", "status", "code"),
    [
        ("true", "completed", 0),
        ("exit 1", "failed", 1),
        ("/etc/passwd", "failed", 126),
        ("/no/such/command", "failed", 127),
        ("kill -9 $$", "failed", 137),
        ("kill -TERM $$", "failed", 143),
        ("exit 255", "failed", 255),
    ],
)
async def test_exit_codes_are_the_shells(
    client: httpx.AsyncClient, command: str, status: str, code: int
) -> None:
    job = await run(client, command)
    assert (job["status"], job["exit_code"], job["error"]) == (status, code, None)
    states = [event["to"] for event in job["events"]]
    assert states == ["pending", "starting", "running", status]
    assert job["duration_seconds"] >= 0


async def test_what_a_job_sees_of_itself(client: httpx.AsyncClient) -> None:
    command = """
      echo id=$FLASHPODS_JOB_ID; echo pid1=$(tr '\\0' ' ' </proc/1/cmdline | cut -c1-20)
      grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status
      id -u; touch /work/x 2>&1; touch /artifacts/y && echo artifacts-writable; ls -A /work | wc -l
      ls /run/flashpods 2>&1; hostname
    """
    job = await run(client, command)
    text = await output(client, job["id"])
    assert f"id={job['id']}" in text
    assert "CapEff:\t0000000000000000" in text
    assert "NoNewPrivs:\t1" in text
    assert "Seccomp:\t2" in text
    assert "Read-only file system" in text
    assert "artifacts-writable" in text
    assert "podman.sock" not in text


async def test_zombies_are_reaped_by_an_init(client: httpx.AsyncClient) -> None:
    # A zombie keeps its name; who is not reaped is there to the end.
    command = r"""
      orphans() { cat /proc/[0-9]*/status 2>/dev/null | grep -c '^Name:.orphan'; }
      waits() { i=$((i+1)); [ $i -lt 999 ] && sleep 0.05; }
      become() { i=0; while [ $(orphans) -ne $1 ] && waits; do :; done; orphans; }
      printf '#!/bin/sh\nwhile [ ! -e /tmp/go ]; do sleep 0.05; done\n' > /tmp/orphan
      chmod 755 /tmp/orphan; for i in 1 2 3; do sh -c '/tmp/orphan & :'; done
      become 3; touch /tmp/go; become 0
    """
    job = await run(client, command)
    assert texts(await output(client, job["id"])) == ["3", "0"]


async def test_a_missing_image_fails_the_job_and_says_so(client: httpx.AsyncClient) -> None:
    job = await run(client, "true", image="localhost/no/such:image")
    assert (job["status"], job["error"]) == ("failed", "image_not_found")
    assert "localhost/no/such:image" in await output(client, job["id"])


async def test_a_development_machine_without_limits_warns(stack: SharedStack) -> None:
    async with stack.new_client() as client:
        job = await run(client, "true")
    unenforced = stack.settings.development.allow_unenforced_limits
    assert any("limits are not enforced" in w for w in job["warnings"]) == unenforced


async def test_without_leave_a_job_whose_limits_do_not_hold_is_not_run(api: ApiFactory) -> None:
    running = api({"development": {"allow_unenforced_limits": False}})
    job = await run(running.client, "echo it ran; cat /sys/fs/cgroup/memory.max")
    if job["status"] == "completed":  # a machine with the controllers
        assert str(1024**3) in await output(running.client, job["id"])
        return
    assert (job["status"], job["error"]) == ("failed", "limits_not_enforced")
    assert "it ran" not in await output(running.client, job["id"])
    await no_containers(running)


# ------------------------------------------------------------------ deadlines and cancelling


@pytest.fixture
def quick(api: ApiFactory, request: pytest.FixtureRequest) -> RunningApi:
    """Return an API whose grace is short, where the test's job is one that needs it to end.

    Where it ends by itself, as its ``code`` says, it has all the time that it may need.
    """
    code = getattr(request.node, "callspec", None) and request.node.callspec.params["code"]
    return api({"jobs": {"grace_seconds": 1 if code in (None, 137) else 60}})


def shorten(api: RunningApi, job_id: str, seconds: int) -> None:
    """Move a running job's start back: the shortest time that can be asked for is a minute."""
    with closing(sqlite3.connect(api.db, timeout=60)) as connection, connection:
        connection.execute(
            "UPDATE jobs SET started_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?) WHERE id = ?",
            (f"-{60 - seconds} seconds", job_id),
        )


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("echo ready; sleep 300", 143),
        ("trap '' TERM; echo ready; while :; do sleep 0.1; done", 137),
        ("trap 'exit 0' TERM; echo ready; while :; do sleep 0.1; done", 0),
    ],
)
async def test_a_timeout_ends_it_whatever_it_does(
    quick: RunningApi, command: str, code: int
) -> None:
    job_id = await submit(quick.client, command, timeout_minutes=1)
    await says(quick.client, job_id, "ready")
    quick.kill()
    shorten(quick, job_id, 2)
    quick.start()
    job = await until(quick.client, job_id, "timed_out")
    assert (job["status"], job["exit_code"]) == ("timed_out", code)
    assert job["error"] == "Job exceeded timeout limit"
    assert job["actual_runtime_seconds"] >= 60
    await no_containers(quick)


async def test_the_runtimes_own_backstop_ends_a_job_while_we_are_down(api: ApiFactory) -> None:
    running = api({"jobs": {"grace_seconds": 1, "backstop_slack_seconds": 1}})
    job_id = await submit(running.client, "sleep 300", timeout_minutes=10)
    await until(running.client, job_id, "running")
    name, inspect = f"job_{job_id}", "{{.Config.Timeout}} {{.HostConfig.LogConfig.Path}}"
    done = running.stack.run_podman("inspect", name, "--format", inspect)
    backstop, log_path = done.stdout.split()
    assert backstop == "602"
    running.kill()
    state = await run_again(running, job_id, Path(log_path), backstop_seconds=2)
    assert (state.exit_code, state.backstop_hit) == (137, True)
    running.start()
    # Its ten minutes are not over: only what the engine says makes it a timeout.
    job = await until(running.client, job_id, "timed_out")
    assert (job["exit_code"], job["error"]) == (137, "Job exceeded timeout limit")
    assert job["actual_runtime_seconds"] < 600
    await no_containers(running)


async def run_again(
    api: RunningApi, job_id: str, log_path: Path, *, backstop_seconds: int
) -> ContainerState:
    """While the API is down, run the job's container anew with a sooner backstop, to its end.

    The soonest that a job can have is over a minute away, and an engine's container can't be
    given another one. Everything else is ours and real: the request, conmon's timer, its kill.
    """
    name = f"job_{job_id}"
    runtime = PodmanRuntime(api.settings.podman)
    try:
        await runtime.ping()
        await runtime.remove(name)
        container_id = await runtime.create(
            ContainerSpec(
                job_id=job_id,
                job_type="worker",
                name=name,
                image=api.stack.info.image,
                argv=("/bin/sh", "-c", "sleep 300"),
                env={},
                workdir="/",
                mounts=(),
                limits=Limits(cpus=1, memory_bytes=1024**3, pids=64),
                backstop_seconds=backstop_seconds,
                log_path=log_path,
                enforce_limits=runtime.limits_enforceable(),
            )
        )
        await runtime.start(container_id)
        async with asyncio.timeout(SECONDS):
            state = await runtime.wait(container_id)
    finally:
        await runtime.close()
    assert state is not None
    with closing(sqlite3.connect(api.db, timeout=60)) as connection, connection:
        connection.execute("UPDATE jobs SET container_id = ? WHERE id = ?", (container_id, job_id))
    return state


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("echo ready; sleep 300", 143),
        ("trap '' TERM; echo ready; while :; do sleep 0.1; done", 137),
    ],
)
async def test_cancel(quick: RunningApi, command: str, code: int) -> None:
    client = quick.client
    job_id = await submit(client, command)
    await says(client, job_id, "ready")
    first = await client.delete(f"/jobs/{job_id}")
    assert (first.status_code, first.json()) == (200, {"job_id": job_id, "status": "cancelled"})
    seen = (await client.get(f"/jobs/{job_id}")).json()
    assert seen["cancel_requested"] is True
    job = await until(client, job_id, "cancelled")
    assert (job["status"], job["exit_code"]) == ("cancelled", code)
    again = await client.delete(f"/jobs/{job_id}")
    assert (again.status_code, again.json()["error"]) == (409, "job_already_terminal")
    await no_containers(quick)
    assert (await client.get("/capacity")).json()["reserved"]["cpus"] == 0


async def test_a_second_delete_within_the_grace_is_acknowledged_as_the_first(
    api: ApiFactory,
) -> None:
    running = api({"jobs": {"grace_seconds": 600}})
    client = running.client
    job_id = await submit(client, "trap '' TERM; echo ready; while :; do sleep 0.1; done")
    await says(client, job_id, "ready")  # it ignores SIGTERM from here on
    for _ in range(2):
        answer = await client.delete(f"/jobs/{job_id}")
        assert (answer.status_code, answer.json()) == (
            200,
            {"job_id": job_id, "status": "cancelled"},
        )
    seen = (await client.get(f"/jobs/{job_id}")).json()
    assert (seen["status"], seen["cancel_requested"]) == ("running", True)
    # Its end comes from outside: a grace that ends by itself may be over at any of these lines.
    killed = running.stack.run_podman("kill", "--signal=KILL", f"job_{job_id}")
    assert killed.returncode == 0, killed.stderr
    job = await until(client, job_id, "cancelled")
    assert job["exit_code"] == 137


async def test_cancel_survives_a_crash_right_after_its_acknowledgement(quick: RunningApi) -> None:
    job_id = await submit(quick.client, "sleep 300")
    await until(quick.client, job_id, "running")
    assert (await quick.client.delete(f"/jobs/{job_id}")).status_code == 200
    quick.kill()
    quick.start()
    assert (await until(quick.client, job_id, "cancelled"))["status"] == "cancelled"
    await no_containers(quick)


# ------------------------------------------------------------------ admission


async def test_fifty_posts_of_one_key_make_one_job(api: ApiFactory) -> None:
    running = api(ROOMY)
    body = {"type": "worker", "command": "true", "client_job_id": str(uuid.uuid4())}
    async with running.new_client(limits=httpx.Limits(max_connections=50)) as client:
        answers = await asyncio.gather(*(client.post("/jobs", json=body) for _ in range(50)))
    assert Counter(a.status_code for a in answers) == {201: 1, 200: 49}
    assert len({a.json()["job_id"] for a in answers}) == 1
    other = await running.client.post("/jobs", json=body | {"command": "false"})
    assert (other.status_code, other.json()["error"]) == (409, "idempotency_conflict")
    upper = await running.client.post(
        "/jobs", json=body | {"client_job_id": body["client_job_id"].upper()}
    )
    assert (upper.status_code, upper.json()["created"]) == (200, False)
    await ended(running.client, answers[0].json()["job_id"])
    assert rows(running, "SELECT count(*) FROM jobs") == [(1,)]


async def test_a_hundred_posts_never_pass_the_capacity(api: ApiFactory) -> None:
    running = api({"development": {"pretend_cpus": 8, "pretend_memory_gb": 100}})
    body = {"type": "worker", "command": "sleep 600", "cpus": 2, "memory_gb": 1}
    async with running.new_client(limits=httpx.Limits(max_connections=100)) as client:
        answers = await asyncio.gather(*(client.post("/jobs", json=body) for _ in range(100)))
    assert Counter(a.status_code for a in answers) == {201: 4, 429: 96}
    refused = next(a for a in answers if a.status_code == 429).json()
    assert refused["error"] == "insufficient_resources"
    assert refused["requested"] == {"cpus": 2, "memory_gb": 1}
    assert refused["available"] == {"cpus": 0, "memory_gb": 96}
    assert refused["host_capacity"] == {"cpus": 8, "memory_gb": 100}
    assert refused["running_jobs"] == 4
    capacity = (await running.client.get("/capacity")).json()
    assert capacity["available"]["cpus"] == 0
    accepted = [a.json()["job_id"] for a in answers if a.status_code == 201]
    for job_id in accepted:
        await running.client.delete(f"/jobs/{job_id}")
    for job_id in accepted:
        await until(running.client, job_id, "cancelled")
    assert rows(running, "SELECT count(*) FROM jobs") == [(4,)]
    assert (await running.client.post("/jobs", json=body)).status_code == 201


async def test_full_disks_refuse_new_jobs_but_not_repeated_ones(api: ApiFactory) -> None:
    running = api()
    key = str(uuid.uuid4())
    body = {"type": "worker", "command": "true", "client_job_id": key}
    assert (await running.client.post("/jobs", json=body)).status_code == 201
    running.restart({"disk": {"warn_percent": 1, "critical_percent": 1}})
    refused = await running.client.post("/jobs", json={"type": "worker", "command": "true"})
    assert (refused.status_code, refused.json()["error"]) == (507, "insufficient_storage")
    assert (await running.client.post("/jobs", json=body)).status_code == 200
    assert rows(running, "SELECT count(*) FROM jobs") == [(1,)]


async def test_lists_are_newest_first_and_page_without_gaps(api: ApiFactory) -> None:
    running = api(ROOMY)
    ids = [await submit(running.client, "true") for _ in range(7)]
    for job_id in ids:
        await ended(running.client, job_id)
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 3}
    while True:
        page = (await running.client.get("/jobs", params=query)).json()
        assert page["total"] == 7
        seen += [job["id"] for job in page["jobs"]]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    assert seen == ids[::-1]
    some = (await running.client.get("/jobs", params={"status": ["failed", "running"]})).json()
    assert (some["jobs"], some["total"]) == ([], 0)


async def test_a_stack_of_jobs_runs_to_its_end_and_leaves_nothing(api: ApiFactory) -> None:
    running = api(ROOMY)
    ids = [await submit(running.client, f"echo {i}; exit {i % 2}") for i in range(20)]
    results = [await ended(running.client, job_id) for job_id in ids]
    assert [job["exit_code"] for job in results] == [i % 2 for i in range(20)]
    await no_containers(running)
    work = running.stack.layout.trees / "work"
    await true_soon(lambda: not any(work.iterdir()), "no working directory is left")  # goes last
    assert (await running.client.get("/capacity")).json()["running_jobs"] == 0


async def test_the_metrics_count_what_ended(api: ApiFactory) -> None:
    running = api()
    await run(running.client, "true")
    await run(running.client, "exit 3")
    http = running.settings.http
    async with httpx.AsyncClient(trust_env=False) as scraper:
        text = (await scraper.get(f"http://127.0.0.1:{http.metrics_port}/metrics")).text
    completed = '{reason="",status="completed",type="worker"} 1.0'
    failed = '{reason="exit_code",status="failed",type="worker"} 1.0'
    assert f"flashpods_jobs_finished_total{completed}" in text
    assert f"flashpods_jobs_finished_total{failed}" in text
    assert "flashpods_jobs_failed_total 1.0" in text
