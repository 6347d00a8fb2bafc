"""Agents from ``POST /jobs`` to the pushed branch, in real containers of the agent image.

The job's network has no way to this machine, so its git server is reached through a Unix socket
that is mounted into it; a forwarder in the test's image gives that a port. The identity is a fake.
"""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import support
from command_line import Laptop
from support import Connected

from flashpods_dev import helper_build
from flashpods_dev.fake_identity import fake_identity
from flashpods_dev.git_server import GitServer, git
from flashpods_dev.machine import AGENT_IMAGE, Machine
from flashpods_dev.stack import MiniStack

IMAGE = "localhost/flashpods/agent-test:dev"
HOST = "http://127.0.0.1:8418"  # the forwarder's, within the container
URL = f"{HOST}/app.git"
TOKEN = "ghp_test_0123456789"
KEY = "sk-test-0123456789"
HELPER = "/usr/local/bin/flashpods-token"
# What the launcher sets when jobs have an identity.
ENV = {
    "FLASHPODS_TOKEN_SOCKET": "/run/flashpods/token.sock",
    "FLASHPODS_GIT_HOSTS": HOST,
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": f"credential.{HOST}.helper",
    "GIT_CONFIG_VALUE_0": f"{HELPER} git-credential",
}
FILES = {
    "entrypoint.sh": "#!/bin/sh\n"
    + "".join(f"export {name}={shlex.quote(value)}\n" for name, value in ENV.items())
    + "python3 /forward.py && exec /real-entrypoint.sh\n",
    "forward.py": """
import os, socket, threading
server = socket.create_server(("127.0.0.1", 8418))
if os.fork():
    os._exit(0)
def pump(source, target):
    while data := source.recv(65536):
        target.sendall(data)
    target.shutdown(socket.SHUT_WR)
while True:
    client, _ = server.accept()
    git = socket.socket(socket.AF_UNIX)
    git.connect("/run/git/git.sock")
    for pair in ((client, git), (git, client)):
        threading.Thread(target=pump, args=pair, daemon=True).start()
""",
    # The stand-in for a model's command line.
    "agent.sh": """#!/bin/sh
cat >prompt
echo "tokens: ${#ANTHROPIC_API_KEY} ${#GITHUB_TOKEN}, $(id -u)"
echo changed >README
echo 'I changed README.' >/artifacts/summary.md
case $FLASHPODS_TASK in
  fail*) exit 3 ;;
  sleep*) echo ready; exec sleep 600 ;;
esac
""",
}


@dataclass
class Place:
    """The module's stack and its git server."""

    stack: MiniStack
    server: GitServer

    def branch(self, *arguments: str) -> str:
        return git("-C", str(self.server.root / "app.git"), *arguments)


@pytest.fixture(scope="module")
def place(machine: Machine) -> Iterator[Place]:
    programs = helper_build.ensure(machine.checkout)
    with ExitStack() as cleanup:
        scratch = Path(tempfile.mkdtemp(prefix="fpg-", dir="/tmp"))  # short enough for a socket
        cleanup.callback(shutil.rmtree, scratch, ignore_errors=True)
        scratch.chmod(0o755)
        (scratch / "socket").mkdir(mode=0o755)
        (scratch / "repositories").mkdir()
        socket = scratch / "socket" / "git.sock"
        server = cleanup.enter_context(GitServer(scratch / "repositories", TOKEN, socket=socket))
        server.repository("app", {"README": "first\n"})
        tokens = {"GITHUB_TOKEN": TOKEN, "ANTHROPIC_API_KEY": KEY}
        sockets = cleanup.enter_context(fake_identity(programs, tokens))
        mounts = {
            "/run/spire/sockets": str(sockets),
            "/run/flashpods": str(sockets),
            "/run/git": str(scratch / "socket"),
            HELPER: str(programs.helper),
        }
        agent = {"image": IMAGE, "command": "/agent.sh", "git_url": URL}
        # A cancelled agent makes its patch within the grace, however slow the machine is.
        overrides = {"podman": {"mounts": mounts}, "jobs": {"agent": agent, "grace_seconds": 60}}
        stack = cleanup.enter_context(support.stack_of(machine, overrides))
        make_image(stack, scratch)
        yield Place(stack, server)


def make_image(stack: MiniStack, scratch: Path) -> None:
    """Put the forwarder and the stand-in on the agent image, before its own entrypoint."""

    def podman(*arguments: str) -> None:
        done = stack.run_podman(*arguments)
        assert done.returncode == 0, done.stderr

    podman("create", "--name=making", AGENT_IMAGE, "/entrypoint.sh")
    podman("cp", "making:/entrypoint.sh", str(stack.layout.engine / "entrypoint.sh"))
    podman("cp", str(stack.layout.engine / "entrypoint.sh"), "making:/real-entrypoint.sh")
    for name, text in FILES.items():
        (scratch / name).write_text(text)
        (scratch / name).chmod(0o755)
        podman("cp", str(scratch / name), f"making:/{name}")
    podman("commit", "--quiet", "making", IMAGE)
    podman("rm", "making")


@pytest.fixture
async def host(place: Place) -> AsyncIterator[Connected]:
    async with support.connect(place.stack) as connected:
        yield connected


async def submit(host: Connected, task: str, branch: str, **fields: Any) -> str:
    body = {"type": "agent", "task": task, "git_branch": branch, "cpus": 1, "memory_gb": 1}
    answer = await host.client.post("/jobs", json={**body, **fields})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["job_id"])


async def artifact(host: Connected, job_id: str, name: str) -> str:
    answer = await host.client.get(f"/jobs/{job_id}/artifacts/{name}")
    assert answer.status_code == 200, answer.text
    return answer.text


async def test_an_agents_work_is_a_pushed_branch_and_two_artifacts(
    place: Place, host: Connected
) -> None:
    job_id = await submit(host, "Change it", "feature/one", context="It must change.")
    row = await support.ended(host.client, job_id)
    log = await support.output(host.client, job_id)
    assert (row["status"], row["exit_code"], row["error"]) == ("completed", 0, None), log
    assert place.branch("show", "feature/one:README") == "changed"
    assert place.branch("show", "feature/one:prompt").startswith("Change it\n\nContext:\nIt must")
    assert f"tokens: {len(KEY)} {len(TOKEN)}, " in log
    listed = (await host.client.get(f"/jobs/{job_id}/artifacts")).json()["artifacts"]
    assert [entry["name"] for entry in listed] == ["changes.patch", "summary.md"]
    patch, summary = [await artifact(host, job_id, entry["name"]) for entry in listed]
    assert "+changed" in patch
    assert summary.startswith("I changed README.\n")
    assert f"# Flashpods job {job_id}" in summary
    for text in (log, patch, summary):
        assert TOKEN not in text
        assert KEY not in text


async def test_a_pushed_tree_brings_its_own_repository(
    place: Place, host: Connected, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    git("clone", "--quiet", str(place.server.root / "app.git"), str(tree))
    git("-C", str(tree), "remote", "set-url", "origin", URL)
    (tree / "mine").write_text("not committed\n")
    job_id = await submit(
        host, "Change it", "feature/two", files_id=await support.pushed(host, tree)
    )
    row = await support.ended(host.client, job_id)
    assert row["status"] == "completed", await support.output(host.client, job_id)
    assert place.branch("show", "feature/two:mine") == "not committed"
    assert place.branch("show", "feature/two:README") == "changed"


async def test_an_agent_from_the_command_line(place: Place, tmp_path: Path) -> None:
    laptop = Laptop.of(place.stack, tmp_path)
    small = ("--no-files", "--cpus", "1", "--memory-gb", "1")
    (tmp_path / "notes").write_text("It must change.")
    context = ("--context-file", "notes")
    answer = await laptop.json("agent", "agent", "-b", "feature/eight", *context, *small, "Do it")
    assert (answer["exit_code"], answer["job"]["status"]) == (0, "completed"), answer
    assert place.branch("show", "feature/eight:prompt").startswith("Do it\n\nContext:\nIt must")
    job = answer["job"]["id"]
    assert [Path(path).name for path in answer["artifacts"]] == ["changes.patch", "summary.md"]
    shown = await laptop.json("diff", "diff", job)
    assert "README" in [file["path"] for file in shown["files"]]
    # The task is the host's to judge, and its refusal is no exit code of a job's.
    refused = await laptop.json("error", "agent", "-b", "HEAD", *small, "Do it", code=125)
    assert refused["error"] == "invalid_request", refused


async def test_a_failed_command_is_the_jobs_error(place: Place, host: Connected) -> None:
    job_id = await submit(host, "fail", "feature/three")
    row = await support.ended(host.client, job_id)
    shown = (row["status"], row["exit_code"], row["error"])
    assert shown == ("failed", 3, "agent_command_failed"), await support.output(host.client, job_id)
    assert "+changed" in await artifact(host, job_id, "changes.patch")
    assert "feature/three" not in place.branch("branch", "--list")


async def test_a_refused_push_is_the_jobs_error(place: Place, host: Connected) -> None:
    place.server.refuse_pushes = True
    try:
        job_id = await submit(host, "Change it", "feature/four")
        row = await support.ended(host.client, job_id)
    finally:
        place.server.refuse_pushes = False
    shown = (row["status"], row["exit_code"], row["error"])
    assert shown == ("failed", 205, "git_push_failed"), await support.output(host.client, job_id)
    assert "+changed" in await artifact(host, job_id, "changes.patch")
    assert "feature/four" not in place.branch("branch", "--list")


async def test_a_cancelled_agent_leaves_its_patch(place: Place, host: Connected) -> None:
    job_id = await submit(host, "sleep", "feature/five")
    await support.says(host.client, job_id, "ready")
    assert (await host.client.delete(f"/jobs/{job_id}")).status_code == 200
    row = await support.ended(host.client, job_id)
    assert (row["status"], row["exit_code"], row["error"]) == ("cancelled", 143, None)
    assert "+changed" in await artifact(host, job_id, "changes.patch")
    assert "the job was stopped" in await artifact(host, job_id, "summary.md")
    assert "feature/five" not in place.branch("branch", "--list")


async def test_an_image_that_is_none_of_agents_says_so(host: Connected) -> None:
    job_id = await submit(host, "Change it", "feature/six", image=host.stack.info.image)
    row = await support.ended(host.client, job_id)
    shown = (row["status"], row["exit_code"], row["error"])
    assert shown == ("failed", 127, "agent_command_failed")
    assert "/entrypoint.sh" in await support.output(host.client, job_id)
