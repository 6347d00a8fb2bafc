"""Real containers of real rootless Podman: their cgroups, labels and peers are what we think."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from token_rig import AGENT, SECRETS, WORKER, claims
from token_service_rig import Service, process

from flashpods.adapters.podman.runtime import PodmanRuntime
from flashpods.config import Podman
from flashpods.ports import ContainerSpec, Limits, Mount

pytestmark = pytest.mark.system

SOCKET = "/run/flashpods/token.sock"
ASK = f"""
import os, socket
s = socket.socket(socket.AF_UNIX)
s.connect({SOCKET!r})
head = "GET /tokens HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\nAuthorization: Bearer "
s.sendall(f"{{head}}{{os.environ['SVID']}}\\r\\n\\r\\n".encode())
print("ANSWER", s.makefile().read().split("\\n\\n")[1])  # makefile turns line ends
"""


def environment(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        pytest.fail(f"{name} is not set: run this with ./dev test, which starts the stack")
    return value


class Jobs:
    """Starts containers as the launcher does, with the socket mounted."""

    def __init__(self, service: Service, runtime: PodmanRuntime, logs: Path) -> None:
        self.service, self.runtime, self.logs = service, runtime, logs
        self.names: list[str] = []

    async def ask(self, job_type: str, svid: str) -> tuple[str, dict[str, Any]]:
        """Run a container of that type that presents a token; return its job id and answer."""
        job_id = secrets.token_hex(8)
        name, log = f"job_{job_id}", self.logs / f"{job_id}.log"
        self.names.append(name)
        spec = ContainerSpec(
            job_id=job_id,
            job_type=job_type,
            name=name,
            image=environment("FLASHPODS_TEST_IMAGE"),
            argv=("python3", "-c", ASK),
            env={"SVID": svid},
            workdir="/",
            mounts=(Mount(source=self.service.path, target=SOCKET, read_only=True),),
            limits=Limits(cpus=1, memory_bytes=256 * 1024**2, pids=64),
            backstop_seconds=120,
            log_path=log,
            enforce_limits=self.runtime.limits_enforceable(),
        )
        container = await self.runtime.create(spec)
        await self.runtime.start(container)
        async with asyncio.timeout(90):
            await self.runtime.wait(container)
        text = await asyncio.to_thread(log.read_text)
        assert "ANSWER " in text, text
        return job_id, json.loads(text.split("ANSWER ")[1].splitlines()[0])


@pytest.fixture
async def jobs(reachable_path: Path) -> AsyncIterator[Jobs]:
    podman = Podman(
        socket=Path(environment("FLASHPODS_TEST_PODMAN_SOCKET")),
        network="none",
        cgroup_parent=environment("FLASHPODS_TEST_CGROUP_PARENT"),
    )
    runtime = PodmanRuntime(podman)
    await runtime.ping()
    async with process() as service:
        service.root.chmod(0o755)
        os.chown(service.path, int(environment("FLASHPODS_TEST_USER")), -1)
        service.engine, service.parent = podman.socket, str(podman.cgroup_parent)
        await service.start()
        started = Jobs(service, runtime, reachable_path)
        yield started
        for name in started.names:
            await runtime.remove(name)
        await runtime.close()


async def test_containers_get_what_is_theirs(jobs: Jobs) -> None:
    service = jobs.service
    agent, worker = (service.key.sign(claims(sub)) for sub in (AGENT, WORKER))
    both = {
        "ANTHROPIC_API_KEY": SECRETS["anthropic_api_key"],
        "GITHUB_TOKEN": SECRETS["github_token"],
    }
    first, answer = await jobs.ask("agent", agent)
    assert answer == both
    second, answer = await jobs.ask("worker", worker)
    assert answer == {**both, "ANTHROPIC_API_KEY": None}
    third, answer = await jobs.ask("worker", agent)  # carried out of an agent's container
    assert answer["error"] == "identity_mismatch"
    fourth, answer = await jobs.ask("agent", worker)
    assert answer["error"] == "identity_mismatch"
    _, answer = await service.ask(agent)  # and onto the host
    assert answer["error"] == "identity_mismatch"
    for job_id, outcome, kind in (
        (first, "granted", "agent"),
        (second, "granted", "worker"),
        (third, "identity_mismatch", "worker"),
        (fourth, "identity_mismatch", "agent"),
        (None, "identity_mismatch", None),
    ):
        line = await service.event("token exchange")
        assert (line["job_id"], line["outcome"], line["job_type"]) == (job_id, outcome, kind)
    await service.stop()
    text = json.dumps(service.lines) + "".join(service.other)
    assert not any(secret in text for secret in (*SECRETS.values(), agent, worker))
