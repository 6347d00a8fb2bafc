"""An agent from ``POST /jobs`` to the pushed branch, with nothing of the host's faked.

The stack stands in the network of the boundary's tests with its rules loaded: real SPIRE, the real
token service and helper, the agent image as it is, and on its internet a git server that demands
the token. Only the model's command line is a stand-in.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import identity_rig as rig
import pytest
import served
import support
from netlab import Lab
from served import Served

from flashpods_dev.git_server import GitServer, git
from flashpods_dev.layout import merge
from flashpods_dev.machine import Machine
from flashpods_dev.service import Service
from flashpods_dev.stack import MiniStack

HOST = "git.example"  # every name resolves to the internet's server
COMMAND = "/opt/agent.sh"
# The stand-in for a model's command line; it works until it is told that it was looked at.
AGENT = """#!/bin/sh
cat >prompt
echo "tokens: ${#ANTHROPIC_API_KEY} ${#GITHUB_TOKEN}"
echo changed >README
echo 'I changed README.' >/artifacts/summary.md
[ "$FLASHPODS_TASK" = 'Wait and see' ] || exit 0
echo working
while [ ! -e /tmp/seen ]; do sleep 0.1; done
"""
SECRETS = [value.encode() for value in rig.SECRETS.values()]
SIZES = f"tokens: {len(rig.SECRETS['anthropic_api_key'])} {len(rig.SECRETS['github_token'])}"


@dataclass(frozen=True, slots=True)
class Place:
    """The stack on its host, and the git server."""

    site: Served
    server: GitServer

    @property
    def stack(self) -> MiniStack:
        return self.site.stack

    def branch(self, *arguments: str) -> str:
        return git("-C", str(self.server.root / "app.git"), *arguments)


@pytest.fixture(scope="module")
def place(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    servers: list[GitServer] = []
    with ExitStack() as cleanup:

        def make(lab: Lab, state: Path) -> MiniStack:
            repositories = tmp_path_factory.mktemp("repositories")
            with lab.internet.entered():
                server = GitServer(repositories, rig.SECRETS["github_token"], address="0.0.0.0")
            servers.append(cleanup.enter_context(server))
            server.repository("app", {"README": "first\n"})
            agent = state.with_name("agent.sh")
            agent.write_text(AGENT)
            agent.chmod(0o755)
            url = f"http://{HOST}:{server.port}"
            settings = {
                "identity": {"git_hosts": [url]},
                "jobs": {"agent": {"command": COMMAND, "git_url": f"{url}/app.git"}},
                "podman": {"mounts": {COMMAND: str(agent)}},
            }
            return MiniStack(
                state,
                machine,
                overrides=merge(served.OVERRIDES, settings),
                port=served.API_PORT,
                parts=("podman", "api"),
                identity=rig.options(machine),
            )

        site = cleanup.enter_context(served.serve(make))
        yield Place(site, servers[0])


@pytest.fixture
async def laptop(place: Place) -> AsyncIterator[httpx.AsyncClient]:
    async with place.site.laptop() as client:
        yield client


async def submit(client: httpx.AsyncClient, task: str, branch: str) -> str:
    body = {"type": "agent", "task": task, "git_branch": branch, "cpus": 1, "memory_gb": 1}
    answer = await client.post("/jobs", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["job_id"])


def files_with_secrets(root: Path) -> tuple[int, list[Path]]:
    """Return how many files a directory has, and which of them hold a secret."""
    files = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    found = []
    for path in files:
        try:
            text = path.read_bytes()
        except FileNotFoundError:  # it has just gone
            continue
        if any(secret in text for secret in SECRETS):
            found.append(path)
    return len(files), found


def arguments_with_secrets() -> list[str]:
    """Return the processes that have a secret among their arguments."""
    lines = {path: rig.read_or_nothing(path) for path in Path("/proc").glob("[0-9]*/cmdline")}
    assert any(COMMAND.encode() in line for line in lines.values()), "the agent runs"
    return [str(path) for path, line in lines.items() if any(s in line for s in SECRETS)]


async def test_an_agents_work_is_pushed_and_no_secret_stays(
    place: Place, laptop: httpx.AsyncClient
) -> None:
    stack, server = place.stack, place.server
    job_id = await submit(laptop, "Wait and see", "feature/one")
    async with support.follow(laptop, job_id) as events:
        async for event in events:
            if "working" in event.data:
                break
    # While it runs, with both tokens in the command's environment and the clone in /work.
    inspected = stack.run_podman("inspect", f"job_{job_id}")
    arguments = arguments_with_secrets()
    during, found = await asyncio.to_thread(files_with_secrets, stack.layout.root)
    assert stack.run_podman("exec", f"job_{job_id}", "touch", "/tmp/seen").returncode == 0
    row = await support.ended(laptop, job_id)
    log = await support.output(laptop, job_id)
    assert (row["status"], row["exit_code"], row["error"]) == ("completed", 0, None), log
    assert place.branch("show", "feature/one:README") == "changed"
    assert place.branch("show", "feature/one:prompt").startswith("Wait and see\n")
    assert f"Flashpods job {job_id}" in place.branch("log", "-1", "--format=%B", "feature/one")
    assert SIZES in log

    listed = (await laptop.get(f"/jobs/{job_id}/artifacts")).json()["artifacts"]
    assert [entry["name"] for entry in listed] == ["changes.patch", "summary.md"]
    patch, summary = [
        (await laptop.get(f"/jobs/{job_id}/artifacts/{entry['name']}")).text for entry in listed
    ]
    assert "+changed" in patch
    assert summary.startswith("I changed README.\n")

    # git asked without the token, was refused, and showed it.
    assert server.refused >= 1
    assert server.served >= 3  # of the clone, the branch and the push
    granted = [line for line in rig.audited(stack) if line["job_id"] == job_id]
    assert len(granted) >= 2
    assert {(line["outcome"], line["spiffe_id"]) for line in granted} == {
        ("granted", f"{rig.DOMAIN}/agent")
    }

    assert f"/{COMMAND.rsplit('/', 1)[-1]}" in inspected.stdout
    for text in (log, json.dumps(row), inspected.stdout, patch, summary):
        assert not [secret for secret in SECRETS if secret in text.encode()]
    assert arguments == []
    after, remaining = await asyncio.to_thread(files_with_secrets, stack.layout.root)
    assert min(during, after) > 20
    secrets_file = rig.identity_of(stack).secrets  # the search finds what is there
    assert found == remaining == [secrets_file]


@asynccontextmanager
async def stopped(place: Place, service: Service) -> AsyncIterator[None]:
    """Have a service dead meanwhile; its unit starts it again on the host, not on the laptop."""
    service.kill()
    try:
        yield
    finally:
        with place.site.lab.host.entered():
            service.start()


@pytest.mark.parametrize(
    ("part", "code", "error"),
    [
        ("tokens", 202, "token_exchange_failed"),
        ("agent", 201, "spire_attestation_timeout"),
    ],
)
async def test_without_its_identity_an_agent_does_nothing(
    place: Place, laptop: httpx.AsyncClient, part: str, code: int, error: str
) -> None:
    asked = place.server.served + place.server.refused
    async with stopped(place, getattr(rig.identity_of(place.stack), part)):
        job_id = await submit(laptop, "Change it", f"feature/{part}")
        row = await support.ended(laptop, job_id)
    log = await support.output(laptop, job_id)
    assert (row["status"], row["exit_code"], row["error"]) == ("failed", code, error), log
    summary = (await laptop.get(f"/jobs/{job_id}/artifacts/summary.md")).text
    assert f"`{error}`" in summary
    assert place.server.served + place.server.refused == asked
    assert "tokens:" not in log

    async def works() -> dict[str, Any]:
        again = await submit(laptop, "Change it", f"feature/{part}")
        return await support.ended(laptop, again)

    assert (await works())["status"] == "completed"
    assert place.branch("show", f"feature/{part}:README") == "changed"


async def test_a_worker_clones_from_the_listed_host_and_shows_the_token_to_no_other(
    place: Place, laptop: httpx.AsyncClient
) -> None:
    server = place.server
    asked = (server.served, server.refused)
    clone = f"git clone --quiet http://{{}}:{server.port}/app.git /tmp/app 2>&1"
    look = "cat /tmp/app/README /tmp/app/.git/config && env"
    status, lines = await served.run(laptop, f"{clone.format(HOST)} && {look}")
    assert (status, lines[0]) == ("completed", "first"), lines
    assert server.served > asked[0]
    assert not [secret for secret in SECRETS if secret in "\n".join(lines).encode()]
    asked = (server.served, server.refused)
    status, lines = await served.run(laptop, clone.format("evil.example"))
    assert status == "failed", lines
    assert "terminal prompts disabled" in "\n".join(lines)
    assert (server.served, server.refused) == (asked[0], asked[1] + 1)
