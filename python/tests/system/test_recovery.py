"""SIGKILL at the worst moments: job, container and log come through, and nothing is left."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from inspection import ROOMY, containers, rows
from support import ended, output, submit, until

if TYPE_CHECKING:
    from conftest import ApiFactory, RunningApi

COUNT = 40
COUNTING = f"i=0; while [ $i -lt {COUNT} ]; do echo line $i; i=$((i+1)); sleep 0.1; done"


async def whole_log(api: RunningApi, job_id: str) -> None:
    """Assert that each line of COUNTING is there once, in order."""
    text = await output(api.client, job_id)
    assert re.findall(r"line (\d+)$", text, re.MULTILINE) == [str(i) for i in range(COUNT)]


async def nothing_left(api: RunningApi, seconds: float = 15) -> None:
    """Assert that containers, workspaces and staging go within the contract's time."""
    layout = api.stack.layout

    def left() -> list[str]:
        trees = [
            *(layout.trees / "work").iterdir(),
            *(layout.root / "artifacts/.staging").iterdir(),
        ]
        return containers(api) + [str(path) for path in trees]

    assert rows(api, "PRAGMA integrity_check") == [("ok",)]
    end = time.monotonic() + seconds
    while left() and time.monotonic() < end:
        await api.client.get("/health")
    assert left() == []


def container_ids(api: RunningApi, job_id: str) -> str:
    done = api.stack.run_podman("ps", "-a", "--no-trunc", "--format", "{{.Names}} {{.ID}}")
    return dict(line.split() for line in done.stdout.splitlines()).get(f"job_{job_id}", "")


@pytest.mark.parametrize("how", ["terminate", "kill"])
async def test_a_restart_in_the_middle_of_a_job(api: ApiFactory, how: str) -> None:
    running = api()
    job_id = await submit(running.client, COUNTING)
    await until(running.client, job_id, "running")
    before = container_ids(running, job_id)
    assert before
    getattr(running, how)()
    running.start()
    assert container_ids(running, job_id) == before
    job = await ended(running.client, job_id)
    assert job["status"] == "completed"
    assert [e["to"] for e in job["events"]] == ["pending", "starting", "running", "completed"]
    await whole_log(running, job_id)
    await nothing_left(running)


async def test_a_job_that_ends_while_we_are_down(api: ApiFactory) -> None:
    running = api()
    job_id = await submit(running.client, "sleep 0.5; echo done; echo x >/artifacts/x; exit 7")
    await until(running.client, job_id, "running")
    running.kill()
    await exited(running, job_id)
    running.start()
    job = await ended(running.client, job_id)
    assert (job["status"], job["exit_code"]) == ("failed", 7)
    assert "done" in await output(running.client, job_id)
    artifacts = (await running.client.get(f"/jobs/{job_id}/artifacts")).json()["artifacts"]
    assert [a["name"] for a in artifacts] == ["x"]
    await nothing_left(running)


async def test_a_reboot_with_a_running_job(api: ApiFactory) -> None:
    running = api()
    job_id = await submit(running.client, "echo once; sleep 600")
    await until(running.client, job_id, "running")
    running.stack.stop()  # takes every process; a new start has an empty run directory
    running.stack.start()
    job = await ended(running.client, job_id)
    assert (job["status"], job["error"]) == ("failed", "container_lost_on_recovery")
    assert (await output(running.client, job_id)).count("once") == 1
    assert (await running.client.get("/capacity")).json()["reserved"]["cpus"] == 0
    await nothing_left(running)


async def exited(api: RunningApi, job_id: str) -> None:
    """Return when Podman says that the job's container is dead."""
    done = await asyncio.to_thread(
        api.stack.run_podman, "wait", "--condition=exited", f"job_{job_id}"
    )
    assert done.returncode == 0, done.stderr


async def test_sigkill_in_each_state(api: ApiFactory) -> None:
    """Kill at ever later moments after the post: pending, starting, running, collecting."""
    running = api(ROOMY)
    work = "dd if=/dev/zero of=/artifacts/a bs=1M count=50 2>/dev/null; echo ok"
    met: set[tuple[str, str | None]] = set()
    ids = []
    for step in range(24):
        job_id = await submit(running.client, work)
        ids.append(job_id)
        await pause(step * 0.015)
        running.kill()
        met.update(rows(running, f"SELECT status, phase FROM jobs WHERE id = '{job_id}'"))
        running.start()
    results = [await ended(running.client, job_id) for job_id in ids]
    states = {status for status, _ in met}
    assert {"pending", "starting", "running"} & states, f"no kill met an active job: {met}"
    for job in results:
        # A crash between the commit of ``starting`` and the container is a loss by contract.
        lost = job["error"] == "container_not_found_on_recovery"
        assert lost or (job["status"], job["exit_code"]) == ("completed", 0), job
    capacity = (await running.client.get("/capacity")).json()
    assert capacity["running_jobs"] == 0
    await nothing_left(running)


async def pause(seconds: float) -> None:
    """Let a chosen time pass: the moment of the kill is what is being varied."""
    await asyncio.get_running_loop().create_task(asyncio.sleep(seconds))


async def test_sigkill_of_the_podman_service(api: ApiFactory) -> None:
    running = api()
    job_id = await submit(running.client, COUNTING)
    await until(running.client, job_id, "running")
    running.podman.kill()
    health = await running.client.get("/health")
    assert health.status_code in {200, 503}
    running.podman.start()
    job = await ended(running.client, job_id)
    assert (job["status"], job["exit_code"]) == ("completed", 0)
    await whole_log(running, job_id)
    await nothing_left(running)


async def test_podman_away_degrades_health_and_the_api_stays_up(api: ApiFactory) -> None:
    running = api()
    running.podman.kill()
    degraded = await healthy(running, 503)
    assert degraded["status"] == "degraded"
    assert degraded["checks"]["podman"] != "ok"
    job_id = await submit(running.client, "echo came through")
    assert (await running.client.get("/jobs")).status_code == 200
    running.podman.start()
    assert (await ended(running.client, job_id))["status"] == "completed"
    assert (await healthy(running, 200))["status"] == "healthy"


async def healthy(api: RunningApi, status: int) -> dict[str, Any]:
    """Return the health's body once it has that status; the check is cached for a second."""
    async with asyncio.timeout(15):
        while (answer := await api.client.get("/health")).status_code != status:
            await api.client.get("/jobs/" + "0" * 16)
        return dict(answer.json())


async def test_orphans_are_removed(api: ApiFactory) -> None:
    running = api()
    name = "job_" + "f" * 16
    done = running.stack.run_podman(
        *("run", "-d", "--name", name, "--label", "flashpods-job=true"),
        *("--label", "flashpods-job-id=" + "f" * 16, "--label", "flashpods-job-type=worker"),
        *("--userns=keep-id", f"--cgroup-parent={running.stack.cgroup_parent}/{name}"),
        *(running.stack.info.image, "sleep", "300"),
    )
    assert done.returncode == 0, done.stderr
    assert containers(running) == [name]
    orphan = Path(running.settings.paths.work) / ("e" * 16)
    orphan.mkdir()
    running.restart()
    await nothing_left(running)


async def test_removal_from_outside_is_a_lost_container(api: ApiFactory) -> None:
    running = api()
    job_id = await submit(running.client, "echo before; sleep 300")
    await until(running.client, job_id, "running")
    async with asyncio.timeout(15):
        while "before" not in await output(running.client, job_id):
            pass
    done = running.stack.run_podman("rm", "-f", "-t", "0", f"job_{job_id}")
    assert done.returncode == 0, done.stderr
    job = await ended(running.client, job_id)
    assert job["status"] == "failed"
    assert job["error"] == "container_lost_on_recovery" or job["exit_code"] == 137
    assert "before" in await output(running.client, job_id)
    await nothing_left(running)
