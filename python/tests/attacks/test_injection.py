# ruff: noqa: E501 - the attacks are data
"""Attack 3: no field of a request changes the container but in the way it is for."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import support
from attacker import token_of
from scoring import FULL, Score
from support import Connected

from flashpods_dev.machine import IMAGE

EVIL = [
    "a\nflashpods-job-type=agent", "x' --privileged '", "$(touch /artifacts/owned)", "`id`", "; id",
    "--privileged", "-v/:/host", "--label=flashpods-job-type=agent", "%s%n{{.Id}}${HOME}", "\r\n\t\x1b]0;x\x07",
    "\u202e\u2066\ufeff", "'\"\\", "=", "FLASHPODS_JOB_ID=0", "x" * 9000, "🙂", "..", "/", "\x7f\x01",
]  # fmt: skip
IMAGES = [
    "--privileged", "-v", "../x", "docker-archive:/etc/passwd", "dir:/etc", "oci:/etc:x", "http://x/y", "docker://alpine", "containers-storage:x", "dir:x", "oci:x", "docker-archive:x", "a b", "a\nb", "a\0b", "A/B", "x:y:z", "x@sha256:1",
    f"{IMAGE} --privileged", f"{IMAGE}\n", f" {IMAGE}", f"{IMAGE}?x=1", f"{IMAGE}#x", f"{IMAGE}%0a", "$(id)", "..", ".", "/", "@", ":", "", "a" * 256, "é", "localhost/../../etc", 1, [], {}, True,
]  # fmt: skip
IDS = [
    "../x",
    "upload_" + "../" * 5,
    "upload_aaaaaaaaaaaa\n",
    "/etc",
    "upload_aaaaaaaaaaaa\0",
    "-v",
    "",
    1,
    [],
    "upload_aaaaaaaaaaaa:/",
]
KEYS = ["--privileged", "../..", "x\ny", "\0", "00000000-0000-4000-8000-000000000000\n", 1, [], ""]
BRANCHES = [
    "--upload-pack=id",
    "-x",
    "a b",
    "a\nb",
    "a..b",
    "a\0",
    "@{x}",
    "/a",
    "a.lock",
    "^a",
    "~",
    "*",
]


async def inspected(host: Connected, job_id: str) -> dict[str, Any]:
    await support.until(host.client, job_id, "running")
    done = await asyncio.to_thread(
        host.stack.run_podman, "inspect", f"job_{job_id}", "--format", "json"
    )
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)
    return dict(found)


def shape(found: dict[str, Any]) -> dict[str, Any]:
    """Return all that no field may change."""
    config, host = found["Config"], found["HostConfig"]
    return {
        "image": found["ImageName"],
        "labels": {k: v for k, v in config["Labels"].items() if k != "flashpods-job-id"},
        "env": sorted(e.split("=", 1)[0] for e in config["Env"]),
        "user": config["User"],
        "entrypoint": [config["Entrypoint"], config["Cmd"][:-1]],
        "mounts": sorted(
            (m["Destination"], m["RW"], m["Type"], tuple(sorted(m["Options"])))
            for m in found["Mounts"]
        ),
        "workdir": config["WorkingDir"],
        "host": {
            k: v
            for k, v in host.items()
            if k not in {"CgroupParent", "LogConfig", "Binds", "IDMappings", "ContainerIDFile"}
        },
        "caps": [found["EffectiveCaps"], found["BoundingCaps"]],
    }


async def cancelled(host: Connected, job_id: str) -> None:
    assert (await host.client.delete(f"/jobs/{job_id}")).status_code == 200
    await support.ended(host.client, job_id)


@pytest.mark.attack(3, "injection into what is run")
async def test_values(host: Connected, score: Score) -> None:
    """Every odd value arrives as itself, or is refused; the container is as any other."""
    plain = await support.submit(host.client, "sleep 600")
    normal = shape(await inspected(host, plain))
    await cancelled(host, plain)
    body = {"type": "agent", "task": "sleep", "git_branch": "main", "cpus": 1, "memory_gb": 1}
    values = EVIL if FULL else EVIL[:8]
    for evil in values:
        with score.attempt():
            command = f"sleep 600 # {evil}" if "\n" not in evil else f"sleep 600; : '{evil}'"
            answer = await support.post_job(host.client, command)
            assert answer.status_code == 201, (evil, answer.text)
            job_id = answer.json()["job_id"]
            found = await inspected(host, job_id)
            assert shape(found) == normal, evil
            assert (
                found["Config"]["Cmd"][-1] == command
            )  # an argument of its own, whatever is in it
            assert found["Config"]["Labels"]["flashpods-job-id"] == job_id
            assert found["Name"] == f"job_{job_id}"
            assert token_of(host) not in json.dumps(found)
            await cancelled(host, job_id)
    for evil in EVIL:
        with score.attempt():  # an agent's image here has no entrypoint: what counts is the row
            answer = await host.client.post("/jobs", json={**body, "task": evil, "context": evil})
            assert answer.status_code in {201, 400, 429}, answer.text
            if answer.status_code == 201:
                row = await support.ended(host.client, answer.json()["job_id"])
                assert row["task"] == evil


Try = tuple[dict[str, Any], set[int]]
FOREIGN = (
    "privileged", "labels", "mounts", "env", "name", "__proto__", "user", "network", "cap_add",
    "entrypoint", "volumes", "task", "git_branch", "Type", "command\0",
)  # fmt: skip


def tries() -> list[Try]:
    """Return requests with the statuses that may answer them."""
    worker = {"type": "worker", "command": "true", "cpus": 1, "memory_gb": 1}
    agent = {"type": "agent", "task": "x", "git_branch": "main"}
    numbers = [0, -1, 1.5, "1", True, [], {}, "1\0"]  # one over the maximum is clamped
    commands: tuple[object, ...] = ("", " ", "a\0b", 1, None, [], "x" * 10_001)
    types: tuple[object, ...] = ("Worker", "root", "worker\n", None, 1, [], {})
    fields = ("cpus", "memory_gb", "timeout_minutes")
    return [
        *(({**worker, "image": v}, {400}) for v in IMAGES),
        *(({**worker, "files_id": v}, {400, 404}) for v in IDS),
        *(({**worker, "client_job_id": v}, {400}) for v in KEYS),
        *(({**agent, "git_branch": v}, {400}) for v in BRANCHES),
        *(({**worker, k: v}, {400}) for k in fields for v in numbers),
        *(({**worker, "command": v}, {400}) for v in commands),
        *(({**worker, k: "x"}, {400}) for k in FOREIGN),
        *(({**worker, "type": v}, {400}) for v in types),
    ]


@pytest.mark.attack(3, "values that must be refused")
async def test_refused(host: Connected, score: Score) -> None:
    before = (await host.client.get("/jobs", params={"limit": 1})).json()["total"]
    for body, statuses in tries():
        with score.attempt():
            answer = await host.client.post("/jobs", json=body)
            assert answer.status_code in statuses, (body, answer.text)
            assert len(answer.content) < 2000
    for text in (b'{"type":"worker","command":"\\ud800"}', b'{"type":"worker","command":"\xff"}'):
        with score.attempt():
            headers = {"Content-Type": "application/json"}
            answer = await host.client.post("/jobs", content=text, headers=headers)
            assert answer.status_code == 400, answer.text
    assert (await host.client.get("/jobs", params={"limit": 1})).json()["total"] == before
