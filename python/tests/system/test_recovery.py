"""SIGKILL at the worst moments: job, container and log come through, and nothing is left."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import signal
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from inspection import containers, rows
from running_api import ApiFactory, RunningApi
from support import SECONDS, ended, output, says, submit, texts, until

from flashpods import failpoints
from flashpods_dev.stack import MiniStack

COUNT = 40
COUNTING = f"i=0; while [ $i -lt {COUNT} ]; do echo line $i; i=$((i+1)); sleep 0.1; done"
# A job ends when it is told to, however long what happens to it meanwhile may take.
GATE = "while [ ! -e /artifacts/go ]; do sleep 0.05; done; rm /artifacts/go"


def open_gate(api: RunningApi, job_id: str) -> None:
    (Path(api.settings.paths.artifacts) / ".staging" / job_id / "go").touch()


async def whole_log(api: RunningApi, job_id: str) -> None:
    """Assert that each line of COUNTING is there once, in order."""
    text = await output(api.client, job_id)
    assert re.findall(r"line (\d+)$", text, re.MULTILINE) == [str(i) for i in range(COUNT)]


async def nothing_left(api: RunningApi, seconds: float = 2 * SECONDS) -> None:
    """Assert that containers, workspaces and staging go; how soon, ./dev faults says.

    What failed on a busy machine is tried again by recovery, every minute.
    """
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


def unstored(stack: MiniStack, name: str) -> None:
    """Take a container's storage away, as Podman itself does for a name that it has not entered.

    This Podman has entered it in a database that it is kept from seeing.
    """
    config = stack.layout.engine / "elsewhere.conf"
    elsewhere = stack.layout.engine / "elsewhere"
    config.write_text(f'[engine]\nevents_logger = "none"\nstatic_dir = "{elsewhere}"\n')
    done = stack.run_podman(
        *("unshare", "env", f"CONTAINERS_CONF={config}", "podman", "rm", "--force", name)
    )
    assert done.returncode == 0, done.stderr
    asked = stack.run_podman("inspect", name)
    assert "container not known" in asked.stderr, asked


def unshown(stack: MiniStack, name: str) -> Callable[[], None]:
    """Have Podman unable to show a container, whatever its state; return what undoes that."""
    found = stack.run_podman("inspect", "--format", "{{.OCIConfigPath}}", name)
    config = Path(found.stdout.strip())
    aside = config.rename(config.with_suffix(".aside"))
    config.mkdir()
    asked = stack.run_podman("inspect", "--type", "container", name)
    assert asked.returncode != 0, asked

    def undo() -> None:
        config.rmdir()
        aside.rename(config)

    return undo


def unlayered(stack: MiniStack, name: str) -> None:
    """Have Podman know nothing of a container's layer, as after a power cut."""
    store = stack.layout.engine / "store"
    kept = json.loads((store / "overlay-containers/containers.json").read_text())
    (layer,) = (found["layer"] for found in kept if name in found["names"])
    layers = store / "overlay-layers/layers.json"
    known = json.loads(layers.read_text())
    layers.write_text(json.dumps([found for found in known if found["id"] != layer]))
    stack.podman.kill()
    stack.podman.start()
    asked = stack.run_podman("inspect", "--type", "container", name)
    assert "layer not known" in asked.stderr, asked


def container_ids(api: RunningApi, job_id: str) -> str:
    done = api.stack.run_podman("ps", "-a", "--no-trunc", "--format", "{{.Names}} {{.ID}}")
    return dict(line.split() for line in done.stdout.splitlines()).get(f"job_{job_id}", "")


@pytest.mark.parametrize("how", ["terminate", "kill"])
async def test_a_restart_in_the_middle_of_a_job(api: ApiFactory, how: str) -> None:
    running = api()
    job_id = await submit(running.client, f"{COUNTING}; {GATE}")
    await until(running.client, job_id, "running")
    before = container_ids(running, job_id)
    assert before
    getattr(running, how)()
    running.start()
    assert container_ids(running, job_id) == before
    open_gate(running, job_id)
    job = await ended(running.client, job_id)
    assert job["status"] == "completed"
    assert [e["to"] for e in job["events"]] == ["pending", "starting", "running", "completed"]
    await whole_log(running, job_id)
    await nothing_left(running)


async def test_a_job_that_ends_while_we_are_down(api: ApiFactory) -> None:
    running = api()
    job_id = await submit(running.client, f"{GATE}; echo done; echo x >/artifacts/x; exit 7")
    await until(running.client, job_id, "running")
    running.kill()
    open_gate(running, job_id)
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
    await says(running.client, job_id, "once")
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


class Moment(NamedTuple):
    """Where the API dies, what the row says there, and how the job ends all the same."""

    place: str
    status: str
    phase: str | None
    ending: tuple[str, int | None, str | None] = ("completed", 0, None)


MOMENTS = [
    Moment("submit.after_commit", "pending", None),
    Moment(  # the row says that a container may be there, and none is: a loss by contract
        "launch.after_starting",
        "starting",
        "creating",
        ("failed", None, "container_not_found_on_recovery"),
    ),
    Moment("launch.after_create", "starting", "creating"),
    Moment("launch.after_started", "running", None),
    Moment("collect.before_drain", "running", "collecting"),
    Moment("collect.after_artifacts", "running", "collecting"),
    Moment("collect.after_note", "running", "collecting"),
    Moment("collect.after_end", "completed", None),
]
ARTIFACT_BYTES = 3_000_000


@pytest.fixture
async def killed_at(shared: MiniStack) -> AsyncIterator[Callable[[str], RunningApi]]:
    """Return a function that starts the module's API anew, to be killed at a failpoint."""
    running = RunningApi(shared)

    def arm(place: str) -> RunningApi:
        shared.api.kill()
        shared.use_api(env={failpoints.VARIABLE: place})
        shared.api.start()
        return running

    yield arm
    if not shared.api.alive:  # the next test finds one, whatever became of this one
        shared.use_api()
        shared.api.start()
    await running.client.aclose()


@pytest.mark.parametrize("moment", MOMENTS, ids=[moment.place for moment in MOMENTS])
async def test_sigkill_in_each_state(
    killed_at: Callable[[str], RunningApi], moment: Moment
) -> None:
    """The API dies exactly there; the next one finishes the job, and has nothing lost or left."""
    running = killed_at(moment.place)
    command = f"seq -f 'line %g' 0 99; head -c {ARTIFACT_BYTES} /dev/urandom >/artifacts/a"
    key = str(uuid.uuid4())
    body = {"type": "worker", "command": command, "cpus": 1, "memory_gb": 1, "client_job_id": key}
    with suppress(httpx.TransportError):  # it may die before it has answered
        await running.client.post("/jobs", json=body)
    assert await asyncio.to_thread(running.service.wait, SECONDS) == -signal.SIGKILL
    met = rows(running, f"SELECT id, status, phase FROM jobs WHERE client_job_id = '{key}'")
    assert [row[1:] for row in met] == [(moment.status, moment.phase)]
    (job_id, _, _) = met[0]

    running.stack.use_api()
    running.start()
    again = await running.client.post("/jobs", json=body)
    assert (again.status_code, again.json()["job_id"]) == (200, job_id)
    job = await ended(running.client, job_id)
    assert (job["status"], job["exit_code"], job["error"]) == moment.ending
    states = [event["to"] for event in job["events"]]
    if job["status"] == "failed":
        assert states == ["pending", "starting", "failed"]
    else:
        assert states == ["pending", "starting", "running", "completed"]
        assert texts(await output(running.client, job_id)) == [f"line {n}" for n in range(100)]
        (artifact,) = (await running.client.get(f"/jobs/{job_id}/artifacts")).json()["artifacts"]
        content = (await running.client.get(f"/jobs/{job_id}/artifacts/a")).content
        assert (artifact["name"], len(content)) == ("a", ARTIFACT_BYTES)
        assert artifact["sha256"] == hashlib.sha256(content).hexdigest()
    capacity = (await running.client.get("/capacity")).json()
    assert capacity["running_jobs"] == 0
    await nothing_left(running)


async def test_sigkill_of_the_podman_service(api: ApiFactory) -> None:
    running = api()
    job_id = await submit(running.client, f"{COUNTING}; {GATE}")
    await until(running.client, job_id, "running")
    running.podman.kill()
    health = await running.client.get("/health")
    assert health.status_code in {200, 503}
    running.podman.start()
    open_gate(running, job_id)
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
    async with asyncio.timeout(SECONDS):
        while (answer := await api.client.get("/health")).status_code != status:
            await api.client.get("/jobs/" + "0" * 16)
        return dict(answer.json())


def stranger(running: RunningApi) -> str:
    """Run a container with our labels that no row knows; return its name."""
    name = "job_" + "f" * 16
    done = running.stack.run_podman(
        *("run", "-d", "--name", name, "--label", "flashpods-job=true"),
        *("--label", "flashpods-job-id=" + "f" * 16, "--label", "flashpods-job-type=worker"),
        *("--userns=keep-id", f"--cgroup-parent={running.stack.cgroup_parent}/{name}"),
        *(running.stack.info.image, "sleep", "300"),
    )
    assert done.returncode == 0, done.stderr
    assert containers(running) == [name]
    return name


async def test_orphans_are_removed(api: ApiFactory) -> None:
    running = api()
    stranger(running)
    orphan = Path(running.settings.paths.work) / ("e" * 16)
    orphan.mkdir()
    running.restart()
    await nothing_left(running)


async def test_an_orphan_without_its_storage_is_removed(api: ApiFactory) -> None:
    """A DELETE that meets a create leaves one: adapters/podman/look.py."""
    running = api()
    name = "job_" + "f" * 16
    done = running.stack.run_podman(
        *("create", "--name", name, "--label", "flashpods-job=true"),
        *("--label", "flashpods-job-id=" + "f" * 16, "--label", "flashpods-job-type=worker"),
        *(running.stack.info.image, "true"),
    )
    assert done.returncode == 0, done.stderr
    unstored(running.stack, name)
    assert containers(running) == [name]
    running.restart()
    await nothing_left(running)


async def test_a_container_that_podman_cannot_show_holds_up_no_other(api: ApiFactory) -> None:
    running = api()
    hidden = await submit(running.client, "echo began; sleep 300")
    await says(running.client, hidden, "began")
    running.kill()
    undo = unshown(running.stack, f"job_{hidden}")
    running.start()
    other = await submit(running.client, "echo meanwhile")
    assert (await ended(running.client, other))["status"] == "completed"
    assert (await running.client.get(f"/jobs/{hidden}")).json()["status"] == "running"
    capacity = (await running.client.get("/capacity")).json()
    assert (capacity["running_jobs"], capacity["reserved"]["cpus"]) == (1, 1)
    assert (await running.client.delete(f"/jobs/{hidden}")).status_code == 200
    undo()
    # What failed while it was hidden is tried again, by recovery as well, every minute.
    assert (await ended(running.client, hidden, 2 * SECONDS))["status"] == "cancelled"
    await nothing_left(running)


@pytest.mark.parametrize("damage", [unshown, unlayered])
async def test_an_orphan_that_podman_cannot_show_is_removed(
    api: ApiFactory, damage: Callable[[MiniStack, str], object]
) -> None:
    running = api()
    running.kill()
    damage(running.stack, stranger(running))
    running.start()
    await nothing_left(running)


async def test_removal_from_outside_is_a_lost_container(api: ApiFactory) -> None:
    running = api()
    job_id = await submit(running.client, "echo before; sleep 300")
    await says(running.client, job_id, "before")
    done = running.stack.run_podman("rm", "-f", "-t", "0", f"job_{job_id}")
    assert done.returncode == 0, done.stderr
    job = await ended(running.client, job_id)
    assert job["status"] == "failed"
    assert job["error"] == "container_lost_on_recovery" or job["exit_code"] == 137
    assert "before" in await output(running.client, job_id)
    await nothing_left(running)
