"""What the identity tests share: a stack with identity, jobs, containers made by hand."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import support
from witness import pressure

from flashpods.spire import agent_config, node
from flashpods_dev import helper_build
from flashpods_dev.identity import build
from flashpods_dev.identity.parts import Identity, Options
from flashpods_dev.identity.render import Lifetimes
from flashpods_dev.layout import merge
from flashpods_dev.machine import IMAGE, UID, Machine
from flashpods_dev.probe import accepts
from flashpods_dev.service import Service
from flashpods_dev.stack import MiniStack

HERE = Path(__file__).parent
DOMAIN = "spiffe://flashpods.local"
AUDIENCE = "flashpods-token-service"
STRANGER = 64950  # a user of the host who has nothing to do with us
ENTRYPOINT = 'exec /bin/sh -c "$FLASHPODS_TASK"\n'  # the agent image's, for what is tested here
INSIDE = "/opt/inside.py"
MOST_SLACK = 8.0
SECRETS = {"anthropic_api_key": "sk-ant-identity-test", "github_token": "ghp_identity_test"}


@contextlib.contextmanager
def stack_with_identity(
    machine: Machine,
    *,
    lifetimes: Lifetimes | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Iterator[MiniStack]:
    """Run a stack whose jobs have Python, SPIRE's agent as a client, and ``inside.py``."""
    identity = options(machine, lifetimes)
    state = Path(tempfile.mkdtemp(prefix="i-", dir=os.environ["FLASHPODS_TEST_TMP"]))
    state.chmod(0o755)
    entrypoint = state / "entrypoint.sh"
    entrypoint.write_text(f"#!/bin/sh\n{ENTRYPOINT}")
    entrypoint.chmod(0o755)
    mounts = {
        "/entrypoint.sh": str(entrypoint),
        "/opt/spire-agent": str(identity.spire.agent),
        INSIDE: str(HERE / "inside.py"),
    }
    settings = {
        "http": {"rate_per_second": 1e6, "rate_burst": 1_000_000},
        "development": {"pretend_cpus": 32, "pretend_memory_gb": 64},
        "jobs": {"agent": {"image": IMAGE}},
        "podman": {"mounts": mounts},
        "tokens": {"rate_per_second": 1000, "rate_burst": 1000},
    }
    try:
        with MiniStack(
            state,
            machine,
            overrides=merge(settings, overrides or {}),
            parts=("podman", "rsyncd", "api"),
            identity=identity,
        ) as stack:
            yield stack
    finally:
        shutil.rmtree(state, ignore_errors=True)


def options(machine: Machine, lifetimes: Lifetimes | None = None) -> Options:
    """Return real SPIRE, the real helper, and secrets that tests can look for."""
    return Options(
        spire=build.ensure(machine.dev),
        helper=helper_build.ensure(machine.checkout).helper,
        lifetimes=lifetimes or Lifetimes(),
        secrets=SECRETS,
    )


def identity_of(stack: MiniStack) -> Identity:
    """Return the stack's identity part, which it has."""
    assert stack.identity is not None
    return stack.identity


# ------------------------------------------------------------------ jobs


async def run_job(client: httpx.AsyncClient, kind: str, command: str, **fields: Any) -> str:
    """Run a job of that type to its successful end and return its output."""
    job_id = await start_job(client, kind, command, **fields)
    row = await support.ended(client, job_id)
    said = await said_by(client, job_id)
    assert row["status"] == "completed", (row, said)
    return said


async def start_job(client: httpx.AsyncClient, kind: str, command: str, **fields: Any) -> str:
    """POST a job of that type and return its id."""
    what = {"command": command} if kind == "worker" else {"task": command, "git_branch": "main"}
    body = {"type": kind, "cpus": 1, "memory_gb": 1, **what, **fields}
    answer = await client.post("/jobs", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["job_id"])


async def said_by(client: httpx.AsyncClient, job_id: str) -> str:
    """Return a job's output without its time stamps."""
    return "\n".join(support.texts(await support.output(client, job_id)))


def answers_in(said: str) -> list[dict[str, Any]]:
    """Return the lines of JSON that ``inside.py`` printed."""
    return [json.loads(line) for line in said.splitlines() if line.startswith("{")]


async def ask(client: httpx.AsyncClient, kind: str, *words: str, **fields: Any) -> dict[str, Any]:
    """Run ``inside.py`` in a job of that type and return the last thing it printed."""
    said = await run_job(client, kind, f"python3 {INSIDE} {' '.join(words)}", **fields)
    return answers_in(said)[-1]


async def works(stack: MiniStack) -> float:
    """Return how many seconds a job needed to get its identity and its secrets; 20 at most."""
    async with support.connect(stack) as host:
        answer = await ask(host.client, "worker", "patient", "20")
    assert (answer.get("id"), answer.get("status")) == (f"{DOMAIN}/worker", 200), answer
    return float(answer["seconds"])


def minted(identity: Identity) -> list[str]:
    """Return why join tokens were minted so far."""
    lines = identity.agent.log.read_text().splitlines()
    ours = [json.loads(line) for line in lines if '"join_token_minted"' in line]
    return [line["why"] for line in ours]


def audited(stack: MiniStack) -> list[dict[str, Any]]:
    """Return the exchange log so far."""
    lines = identity_of(stack).tokens.log.read_text().splitlines()
    parsed = [json.loads(line) for line in lines if line.startswith("{")]
    return [line for line in parsed if line.get("event") == "token exchange"]


def claims(jwt: str) -> dict[str, Any]:
    """Return the claims of a JWT, unverified."""
    part = jwt.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found


# ------------------------------------------------------------------ containers by hand


@dataclass(frozen=True, slots=True)
class Container:
    """One that the tests made, as an attacker who got at Podman, or a careless launcher, would."""

    name: str
    id: str
    cgroup: str  # its parent


@contextlib.contextmanager
def container(
    stack: MiniStack,
    *options: str,
    labels: Mapping[str, str] | None = None,
    image: str = IMAGE,
    keep_id: bool = True,
    command: tuple[str, ...] = ("sleep", "300"),
    sockets: Path | None = None,
) -> Iterator[Container]:
    """Run a container in a job's place: its name, its cgroup parent, its mounts."""
    identity = identity_of(stack)
    name = f"job_{uuid.uuid4().hex}"
    parent = f"{stack.cgroup_parent}/{name}"
    argv = ["run", "--detach", "--pull=never", f"--name={name}", f"--cgroup-parent={parent}"]
    argv += ["--network=none", "--init", "--stop-timeout=0", "--ulimit=host"]
    argv += ["--userns=keep-id"] if keep_id else []
    argv += [f"--label={key}={value}" for key, value in (labels or {}).items()]
    for target, source in {
        "/run/spire/sockets": sockets or identity.sockets,
        "/run/flashpods/token.sock": identity.token_socket,
        **stack.settings["podman"]["mounts"],
    }.items():
        argv.append(f"--volume={source}:{target}:ro")
    done = stack.run_podman(*argv, *options, image, *command)
    assert done.returncode == 0, done.stderr
    try:
        yield Container(name=name, id=done.stdout.strip(), cgroup=parent)
    finally:
        stack.run_podman("rm", "--force", "--time=0", name)


def run_in(
    stack: MiniStack, inside: Container, *command: str, seconds: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run a command in a container."""
    return stack.run_podman("exec", inside.name, *command, seconds=seconds)


def labels_of(kind: str) -> dict[str, str]:
    """Return what the launcher sets."""
    return {
        "flashpods-job": "true",
        "flashpods-job-id": uuid.uuid4().hex,
        "flashpods-job-type": kind,
    }


@contextlib.contextmanager
def unsafe_agent(stack: MiniStack, change: Callable[[dict[str, Any]], object]) -> Iterator[Path]:
    """Run a second agent, whose attestor is configured as ``flashpods-spire-agent`` refuses.

    It shows that an attack works where our defence is not; yields its sockets' directory.
    """
    identity = identity_of(stack)
    place = Path(tempfile.mkdtemp(prefix="u", dir=stack.layout.volatile))
    place.chmod(0o755)
    data, sockets, bundle = place / "data", place / "sockets", place / "bundle.pem"
    for directory in (data, sockets):
        directory.mkdir(mode=0o755)
    content = agent_config.read(identity.agent_config)
    docker = agent_config.docker_plugin(content)
    assert docker is not None
    change(docker)
    content["agent"]["socket_path"] = str(sockets / "agent.sock")
    content["plugins"]["KeyManager"]["disk"]["plugin_data"]["directory"] = str(data)
    server = identity.client()
    bundle.write_text(node.as_pem(node.authorities_of(server.bundle())))
    started = agent_config.with_start(
        content, data=data, bundle=bundle, join_token=server.join_token()
    )
    config = place / "agent.json"
    config.write_text(json.dumps(started))
    agent = Service(
        "unsafe-agent",
        [str(identity.options.spire.agent), "run", "-config", str(config)],
        log=stack.layout.logs / "unsafe-agent.log",
        ready=lambda: accepts(sockets / "agent.sock"),
        cwd=place,
    )
    try:
        agent.start()
        yield sockets
    finally:
        agent.kill()
        shutil.rmtree(place)


# ------------------------------------------------------------------ the host


def read_or_nothing(path: Path) -> bytes:
    """Return what a file of /proc holds; nothing if its process has gone."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def as_stranger(*command: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a command on the host as a user who is not ours."""
    return as_user_of_host(STRANGER, *command, seconds=seconds)


def as_user_of_host(
    uid: int, *command: str, seconds: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run a command on the host as that user."""
    prefix = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    return subprocess.run(
        [*prefix, *command], capture_output=True, text=True, timeout=seconds, check=False, cwd="/"
    )


def fetch_jwt(agent: Path, socket: Path, audience: str = AUDIENCE) -> list[str]:
    """Return the command line that fetches a JWT-SVID with SPIRE's own client."""
    command = [str(agent), "api", "fetch", "jwt", "-audience", audience, "-output", "json"]
    return [*command, "-socketPath", str(socket), "-timeout", "5s"]


def within(seconds: float, condition: Callable[[], bool], what: str) -> float:
    """Look until it is so and return after how many seconds; for what gives no event."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < slack(seconds), f"not within {seconds} s: {what}"
        time.sleep(0.05)
    return time.monotonic() - began


def slack(seconds: float) -> float:
    """Return a bound as it holds on this machine now: what is meant on an idle one, or more."""
    return seconds * min(MOST_SLACK, pressure())


__all__ = ["IMAGE", "SECRETS", "UID"]
