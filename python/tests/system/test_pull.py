"""Images from a real registry on loopback: pulled, absent, and one that stalls in a blob."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import support

from flashpods_dev.layout import free_port
from flashpods_dev.machine import IMAGE, UID, Machine
from flashpods_dev.probe import answers
from flashpods_dev.service import Service
from flashpods_dev.stack import MiniStack

IDLE_SECONDS = 12.0  # podman.pull_idle_seconds, where the registry stalls: more than a machine does
STALLS_AFTER = 100_000  # bytes
ABSENT = ("flashpods/base:absent", "nobody/has/this:1")

pytestmark = pytest.mark.timeout(900)  # the first test pays for the push: 200 MB, compressed


@dataclass(frozen=True, slots=True)
class Registry:
    """A registry with two images, and a stack whose own store has none."""

    stack: MiniStack
    port: int
    stalling_port: int

    @property
    def base(self) -> str:
        return f"127.0.0.1:{self.port}/flashpods/base:1"


@pytest.fixture(scope="module")
def registry(machine: Machine) -> Iterator[Registry]:
    """Start a registry and fill it from a store that has the base image."""
    place = Path(tempfile.mkdtemp(prefix="r-", dir=os.environ["FLASHPODS_TEST_TMP"]))
    place.chmod(0o755)  # the stacks' user goes through it
    port, stalling_port = free_port(), free_port()
    serving = service(place, port)
    try:
        serving.start()
        with MiniStack(place / "pusher", machine, parts=()) as pusher:
            push(pusher, place, port)
        puller = MiniStack(place / "puller", machine, parts=("podman", "api"), images=False)
        trust(puller, port, stalling_port)
        with puller:
            yield Registry(puller, port, stalling_port)
    finally:
        serving.kill()
        shutil.rmtree(place, ignore_errors=True)


def service(place: Path, port: int) -> Service:
    """Return the registry's process, not started."""
    config = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(place / "registry")}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    file = place / "registry.yml"
    file.write_text(json.dumps(config))  # JSON is YAML

    def ready() -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        return answers(connection, "/v2/", [200])

    argv = ["docker-registry", "serve", str(file)]
    return Service("registry", argv, log=place / "registry.log", ready=ready, cwd=place)


def push(pusher: MiniStack, place: Path, port: int) -> None:
    """Push the base image, and one that is a single incompressible file."""
    blob = pusher.layout.engine / "blob"
    blob.write_bytes(os.urandom(50 * STALLS_AFTER))
    archive = pusher.layout.engine / "blob.tar"
    subprocess.run(["tar", "-C", blob.parent, "-cf", archive, blob.name], check=True, timeout=120)
    to = ("push", "--tls-verify=false", "--format=oci", "--compression-format=zstd")
    for arguments in (
        (*to, IMAGE, f"127.0.0.1:{port}/flashpods/base:1"),
        ("import", str(archive), "localhost/blob:1"),
        (*to, "localhost/blob:1", f"127.0.0.1:{port}/flashpods/blob:1"),
    ):
        done = pusher.run_podman(*arguments, seconds=600)
        assert done.returncode == 0, done.stderr


def trust(stack: MiniStack, *ports: int) -> None:
    """Let the stack's engine speak plain HTTP with registries on these ports of loopback."""
    home = stack.layout.engine / "home"
    file = home / ".config" / "containers" / "registries.conf"
    file.parent.mkdir(parents=True)
    for directory in (home, home / ".config", file.parent):
        os.chown(directory, UID, UID)
    entries = [f'[[registry]]\nlocation = "127.0.0.1:{port}"\ninsecure = true\n' for port in ports]
    file.write_text("\n".join(entries))


@pytest.fixture
async def client(registry: Registry) -> AsyncIterator[httpx.AsyncClient]:
    async with support.connect(registry.stack) as connected:
        yield connected.client


async def watched(client: httpx.AsyncClient, job_id: str) -> tuple[dict[str, Any], list[Any]]:
    """Follow a job's row to its end; return it, and the (status, phase) pairs that were seen."""
    seen: list[Any] = []
    async with asyncio.timeout(300):
        row = await support.row_of(client, job_id)
        while row["status"] not in support.TERMINAL:
            seen.append((row["status"], row["phase"]))
            # Not longer: a change between two requests is not waited for, and a phase passes.
            row = await support.row_of(client, job_id, wait=1)
    return row, seen


async def test_a_job_pulls_its_image(client: httpx.AsyncClient, registry: Registry) -> None:
    job_id = await support.submit(client, "echo ran; cat /etc/os-release", image=registry.base)
    row, seen = await watched(client, job_id)
    assert row["status"] == "completed", await support.output(client, job_id)
    assert ("starting", "pulling") in seen
    lines = support.texts(await support.output(client, job_id))
    ran = lines.index("ran")
    pulled = "\n".join(lines[:ran])
    assert f"Trying to pull {registry.base}" in pulled
    assert "Copying blob" in pulled
    assert "Writing manifest" in pulled
    assert any(line.startswith("ID=") for line in lines[ran:])

    # The image is here now: nothing is pulled, and nothing is said of it.
    row, seen = await watched(client, await support.submit(client, "echo", image=registry.base))
    assert (row["status"], ("starting", "pulling") in seen) == ("completed", False)
    assert support.texts(await support.output(client, row["id"])) == [""]


@pytest.mark.parametrize("name", ABSENT)
async def test_an_image_that_is_not_there(
    client: httpx.AsyncClient, registry: Registry, name: str
) -> None:
    image = f"127.0.0.1:{registry.port}/{name}"
    row, _ = await watched(client, await support.submit(client, "true", image=image))
    assert (row["status"], row["error"], row["started_at"]) == ("failed", "image_not_found", None)
    assert image in await support.output(client, row["id"])


async def test_a_registry_that_stalls(client: httpx.AsyncClient, registry: Registry) -> None:
    """It sends the manifest and part of the blob, then nothing more: the job is ended in time."""
    image = f"127.0.0.1:{registry.stalling_port}/flashpods/blob:1"
    registry.stack.api.terminate()
    registry.stack.write_settings({"podman": {"pull_idle_seconds": IDLE_SECONDS}})
    registry.stack.api.start()
    async with stalling(registry) as stalled:
        job_id = await support.submit(client, "true", image=image)
        await asyncio.wait_for(stalled.wait(), support.SECONDS)
        async with asyncio.timeout(10 * IDLE_SECONDS):  # far below jobs.starting_seconds
            row, _ = await watched(client, job_id)
    assert (row["status"], row["error"], row["started_at"]) == ("failed", "image_pull_failed", None)
    log = await support.output(client, job_id)
    assert "Copying blob" in log
    assert "no progress" in log


async def test_a_registry_that_is_not_there(client: httpx.AsyncClient, registry: Registry) -> None:
    image = f"127.0.0.1:{registry.stalling_port}/flashpods/blob:1"
    row, _ = await watched(client, await support.submit(client, "true", image=image))
    assert (row["status"], row["error"]) == ("failed", "image_pull_failed")


@asynccontextmanager
async def stalling(registry: Registry) -> AsyncIterator[asyncio.Event]:
    """Serve the registry on its other port; each connection stalls when it has passed that much.

    Yields:
        An event: one has stalled.
    """
    stalled = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection("127.0.0.1", registry.port)

        async def answer() -> None:
            await pass_on(back, writer, STALLS_AFTER)
            stalled.set()

        answering = asyncio.create_task(answer())
        try:
            await pass_on(reader, forth)  # until the client has had enough
        finally:
            answering.cancel()
            forth.close()
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", registry.stalling_port)
    async with server:
        yield stalled


async def pass_on(
    source: asyncio.StreamReader, target: asyncio.StreamWriter, most: float = float("inf")
) -> None:
    """Copy until the source ends, or that many bytes have passed."""
    with suppress(ConnectionError):
        while most > 0 and (data := await source.read(16_384)):
            target.write(data)
            await target.drain()
            most -= len(data)
