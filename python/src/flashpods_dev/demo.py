"""``./dev demo``: the main job on real input, from the push to the fetched result."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import aclosing
from pathlib import Path

from rich.console import Console
from rich.table import Table

from flashpods.client import ClientConfig, ClientError, FlashpodsClient
from flashpods.client.config import DEFAULT_EXCLUDE
from flashpods.client.models import Artifact, Job
from flashpods_dev.machine import Machine, StackError
from flashpods_dev.report import Steps, say
from flashpods_dev.stack import MiniStack

# The image has Python, pytest and hatchling, and not what the product depends on: so this builds
# the wheel, and runs the tests of what needs the standard library only. /work is read-only.
COMMAND = """
set -eu
cp -r /work/python /tmp/source && cd /tmp/source
echo "== building the wheel, as $(id -un) on $(. /etc/os-release && echo "$PRETTY_NAME")"
python3 -m hatchling build --target wheel --directory /artifacts
echo "== the rules' tests"
PYTHONPATH=src PYTHONDONTWRITEBYTECODE=1 python3 -m pytest -c /dev/null --rootdir=. \
  -p no:cacheprovider --noconftest --junitxml=/artifacts/junit.xml tests/unit/test_states.py
"""
EXCLUDE = (*DEFAULT_EXCLUDE, "/.dev", "*.pyc", ".mypy_cache", ".ruff_cache", ".hypothesis")
WAIT_SECONDS = 300


def run(machine: Machine, state: Path) -> int:
    """Start a stack, run the job, show it, stop the stack; return the job's exit code."""
    steps = Steps()
    console = Console(stderr=False, highlight=False)
    home = machine.dev / "demo"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    with MiniStack(state, machine) as stack:
        steps.done("start the stack: Podman, rsync, API, reaper")
        config = ClientConfig(token=stack.layout.token.read_text().strip(), api_url=stack.api_url)
        try:
            job, artifacts = asyncio.run(_job(config, machine.checkout, home, steps, console))
        except ClientError as e:
            logs = shutil.copytree(stack.layout.logs, home / "services")
            raise StackError(f"demo: {e}\n{stack.api.tail()}\nall logs: {logs}") from e
    steps.done("stop it, nothing left", quiet=True)
    _summary(console, steps, job, artifacts)
    say(f"the artifacts are in {home}")
    return job.exit_code if job.exit_code is not None else 1


async def _job(
    config: ClientConfig, checkout: Path, home: Path, steps: Steps, console: Console
) -> tuple[Job, list[Artifact]]:
    """Push, run, follow, fetch."""
    async with FlashpodsClient(config) as client:
        upload = await client.push(checkout, exclude=EXCLUDE, project="flashpods-demo")
        steps.done(f"push {checkout.name} by rsync and finalize it")
        created = await client.create_job(type="worker", command=COMMAND, files_id=upload.upload_id)
        steps.done("post the job")
        async with aclosing(client.follow(created.job_id)) as pieces:
            async for text, _ in pieces:
                console.print(text, end="", markup=False, style="dim", soft_wrap=True)
        job = await client.wait(created.job_id, WAIT_SECONDS)
        steps.done(f"run it: {job.status}")
        for warning in job.warnings:
            say(f"the job warns: {warning}")
        artifacts = await client.artifacts(job.id)
        for artifact in artifacts:
            await client.download(job.id, artifact.name, home, artifact=artifact)
        steps.done(f"download {len(artifacts)} artifacts, verified")
        return job, artifacts


def _summary(console: Console, steps: Steps, job: Job, artifacts: list[Artifact]) -> None:
    """Print what happened and how long each step took."""
    table = Table(title=f"job {job.id}: {job.status}, exit code {job.exit_code}")
    table.add_column("step")
    table.add_column("seconds", justify="right")
    for name, seconds in steps.rows:
        table.add_row(name, f"{seconds:.2f}")
    table.add_section()
    table.add_row("in all", f"{steps.total:.2f}")
    for artifact in artifacts:
        table.add_row(f"{artifact.name}  ({artifact.size_bytes} bytes)", "", style="green")
    if job.error:
        table.add_row(job.error, "", style="red")
    console.print(table)
