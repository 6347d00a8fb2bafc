# ruff: noqa: E501 - the attacks are data
"""Attack 8: a job fills the host's disks, by every way that it has; only that job is ended.

The budget acts on every machine, because it is measured and asks the kernel for nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import support
from attacker import bystander
from scoring import MB, Score
from support import Connected

from flashpods.adapters.files.disk_tool import measure
from flashpods_dev.machine import UID, Machine
from flashpods_dev.stack import MiniStack

BUDGET = 512 * MB
FILES = 20_000
# From the budget to the kill pass some 0.1 s. What is written meanwhile, up to 3 GB/s, or reserved,
# up to 10, is the machine's; so the bound is on the time. Unwatched, the writers stop at nothing.
SOON = 2.0
ENTRIES = 2 * FILES


def python(text: str) -> str:
    """Return a command that runs it; the text has no double quotes."""
    return f'python3 -c "{text}"'


FILLS = {
    "/artifacts": "cat /dev/zero > /artifacts/big",
    "the container's own layer": "cat /dev/zero > /tmp/big",
    "a directory shut to all": "mkdir /tmp/d; exec 3>/tmp/d/x; chmod 0 /tmp/d; cat /dev/zero >&3",
    "a file without a name": "exec 3>/tmp/x; rm /tmp/x; cat /dev/zero >&3",
    "a file without a name, in /artifacts": "exec 3>/artifacts/x; rm /artifacts/x; cat /dev/zero >&3",
    "fallocate": "i=0; while :; do i=$((i+1)); fallocate -l 64M /tmp/f$i || sleep 0.1; done",
    "eight writers in two places": "for i in 1 2 3 4; do cat /dev/zero > /tmp/a$i & cat /dev/zero > /artifacts/b$i & done; wait",
    "slowly, in small files": "i=0; while :; do i=$((i+1)); head -c 8M /dev/zero > /tmp/f$i; done",
    "mapped pages": python(
        "import mmap, os; f = open('/tmp/m', 'w+b'); f.truncate(1 << 33); m = mmap.mmap(f.fileno(), 1 << 33)\n"
        "for at in range(0, 1 << 33, 4096): m[at] = 1"
    ),
}
QUICK = ("/artifacts", "a file without a name", "a directory shut to all")
ENTRY_FILLS = {
    "empty files": python("import os\nfor n in range(10**6): os.mknod(f'/artifacts/f{n}')"),
    "directories": python("import os\nfor n in range(10**6): os.mkdir(f'/tmp/d{n}')"),
    "deep directories": python(
        "import os; os.chdir('/tmp')\nfor n in range(10**6): os.mkdir('d'); os.chdir('d')"
    ),
}
HARMLESS = {
    "a sparse terabyte": "truncate -s 1T /tmp/s /artifacts/s; sleep 3; rm /artifacts/s",
    "many names of one file": "head -c 100M /dev/zero > /tmp/f; i=0; while [ $i -lt 300 ]; do ln /tmp/f /tmp/l$i; i=$((i+1)); done; sleep 3",
    "memory, not disk": "head -c 50M /dev/zero > /dev/shm/x; exec 3</dev/shm/x; rm /dev/shm/x; sleep 3",
    "written and deleted, again and again": "i=0; while [ $i -lt 12 ]; do i=$((i+1)); head -c 100M /dev/zero > /tmp/f; rm /tmp/f; done",
}


@pytest.fixture(scope="module")
def small(machine: Machine) -> Iterator[MiniStack]:
    """A stack whose jobs may hold little."""
    overrides = {
        "jobs": {"disk_bytes": BUDGET, "disk_files": FILES},
        "output": {"artifact_job_bytes": BUDGET, "artifact_file_bytes": BUDGET},
    }
    with support.stack_of(machine, overrides) as stack:
        yield stack


@pytest.fixture
async def tight(small: MiniStack) -> AsyncIterator[Connected]:
    async with support.connect(small) as connected:
        yield connected


class Peak:
    """The most that a job held, and how long it grew beyond its budget, looked at all the time."""

    def __init__(self, host: Connected, job_id: str) -> None:
        found = host.stack.run_podman(
            "inspect", f"job_{job_id}", "--format", "{{.GraphDriver.Data.UpperDir}}"
        )
        self.layer = Path(found.stdout.strip())
        self._places = [self.layer, host.settings.paths.artifacts / ".staging" / job_id]
        self._cgroup = host.stack.cgroup_dir / "ctrs" / f"job_{job_id}"
        self.bytes = 0
        self.wrote_on = 0.0  # seconds after the first look that found more than the budget

    async def until(self, done: asyncio.Task[dict[str, object]]) -> None:
        over = 0.0
        while not done.done():
            began = time.monotonic()
            found = await asyncio.to_thread(self._look)
            if found > self.bytes and over:
                self.wrote_on = began - over
            self.bytes = max(self.bytes, found)
            if found > BUDGET and not over:
                over = began
            await asyncio.wait({done}, timeout=0.02)

    def _look(self) -> int:
        return self._nameless() + sum(measure(str(place), 10**7)[1] for place in self._places)

    def _nameless(self) -> int:
        """Return the bytes of files that the job's processes hold open and that have no name."""
        found: dict[tuple[int, int], int] = {}
        for procs in self._cgroup.rglob("cgroup.procs"):
            with contextlib.suppress(OSError):
                for pid in procs.read_text().split():
                    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                        with contextlib.suppress(OSError):
                            info = descriptor.stat()
                            if stat.S_ISREG(info.st_mode) and info.st_nlink == 0:
                                found[info.st_dev, info.st_ino] = info.st_blocks * 512
        return sum(found.values())


async def gone(host: Connected, row: dict[str, object], layer: Path) -> None:
    """What the job held is given back."""
    staging = host.settings.paths.artifacts / ".staging" / str(row["id"])
    # Ten thousands of directories take their time, in which others' jobs begin and end.
    await support.true_soon(lambda: not staging.exists(), "the staging directory goes", 120)
    await support.true_soon(lambda: not layer.exists(), "the layer goes", 120)


async def fill(host: Connected, score: Score, command: str) -> tuple[dict[str, object], Peak]:
    """Run a filler beside a neighbour; check that it, and only it, is ended, and leaves nothing."""
    neighbour = await support.submit(host.client, "sleep 600")
    await support.until(host.client, neighbour, "running")
    # Some take half a second to their end: it must be looked at before that.
    gate = "while [ ! -e /artifacts/go ]; do sleep 0.05; done; rm /artifacts/go"
    job_id = await support.submit(host.client, f"{gate}; {command}")
    await support.until(host.client, job_id, "running")
    peak = Peak(host, job_id)
    (host.settings.paths.artifacts / ".staging" / job_id / "go").touch()
    began = time.monotonic()
    end = asyncio.create_task(support.ended(host.client, job_id, seconds=300))
    await peak.until(end)
    row = await end
    took = time.monotonic() - began
    assert (row["status"], row["exit_code"], row["error"]) == (
        "failed",
        137,
        "disk_limit_exceeded",
    ), row
    assert any("the limit" in warning for warning in row["warnings"]), row
    assert (await support.row_of(host.client, neighbour))["status"] == "running"
    await host.client.delete(f"/jobs/{neighbour}")
    await support.ended(host.client, neighbour)
    await gone(host, row, peak.layer)
    score.note(f"ended {took:.1f} s after its start")
    return row, peak


def said_mb(row: dict[str, object]) -> float:
    """Return what the watch had measured, which counts what has no name."""
    warnings = row["warnings"]
    assert isinstance(warnings, list)
    (text,) = [w for w in warnings if w.startswith("disk_limit_exceeded")]
    return float(text.split(" holds ")[1].split(" GiB")[0]) * 1024


@pytest.mark.attack(8, "a job fills the disk: bytes")
@pytest.mark.parametrize(
    "way",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.attacks_full)
        for name in FILLS
    ],
)
async def test_bytes(tight: Connected, score: Score, way: str) -> None:
    score.note(way)
    async with bystander(tight) as seen:
        with score.attempt():
            row, peak = await fill(tight, score, FILLS[way])
            assert said_mb(row) >= BUDGET / MB
            score.figure("wrote on beyond its budget for", peak.wrote_on, SOON)
            score.note(f"held {max(peak.bytes / MB, said_mb(row)):.0f} MB of {BUDGET // MB}")
    with score.attempt():
        assert seen.errors == 0
        score.figure("others' p99", seen.p99, 1.0)


@pytest.mark.attack(8, "a job fills the disk: inodes")
@pytest.mark.parametrize(
    "way",
    [
        "empty files",
        *(
            pytest.param(n, marks=pytest.mark.attacks_full)
            for n in ENTRY_FILLS
            if n != "empty files"
        ),
    ],
)
async def test_entries(tight: Connected, score: Score, way: str) -> None:
    score.note(way)
    with score.attempt():
        row, _ = await fill(tight, score, ENTRY_FILLS[way])
        assert "files and directories" in str(row["warnings"])
    with score.attempt():  # the engine has got rid of it, and makes containers as before
        assert (await support.run(tight.client, "true"))["status"] == "completed"


@pytest.mark.attack(8, "what only looks like much disk ends no job")
@pytest.mark.parametrize(
    "way",
    [
        "a sparse terabyte",
        *(
            pytest.param(n, marks=pytest.mark.attacks_full)
            for n in HARMLESS
            if n != "a sparse terabyte"
        ),
    ],
)
async def test_harmless(tight: Connected, score: Score, way: str) -> None:
    score.note(way)
    with score.attempt():
        row = await support.run(tight.client, HARMLESS[way])
        assert (row["status"], row["error"]) == ("completed", None), row


@pytest.mark.attack(8, "a job fills the disk while the API is down")
async def test_found_at_start(tight: Connected, score: Score) -> None:
    """Nothing of ours is up to stop it; the next start does so at once."""
    job_id = await support.submit(
        tight.client,
        f"while [ ! -e /artifacts/go ]; do sleep 0.05; done; head -c {2 * BUDGET} /dev/zero > /artifacts/a; sleep 600",
    )
    await support.until(tight.client, job_id, "running")
    tight.stack.api.kill()
    staged = tight.settings.paths.artifacts / ".staging" / job_id
    (staged / "go").touch()
    try:
        await support.true_soon(
            lambda: (staged / "a").exists() and (staged / "a").stat().st_size == 2 * BUDGET,
            "it is written",
            300,
        )
    finally:
        tight.stack.api.start()
    began = time.monotonic()
    with score.attempt():
        row = await support.ended(tight.client, job_id)
        assert (row["status"], row["error"]) == ("failed", "disk_limit_exceeded"), row
        score.figure("from the API's start to its end", time.monotonic() - began, 10)


@pytest.fixture
def crowded(machine: Machine) -> Iterator[MiniStack]:
    """A stack whose artifacts are on a small disk of their own.

    So is all else: how full the machine's own disk is decides nothing here.
    """
    state = Path(tempfile.mkdtemp(prefix="g-", dir=os.environ["FLASHPODS_TEST_TMP"]))
    artifacts = state / "artifacts"
    for place, size, uid in ((state, 600 * MB, 0), (artifacts, 800 * MB, UID)):
        place.mkdir(exist_ok=True)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size},uid={uid},mode=755", "small"]
        subprocess.run([*mount, str(place)], check=True, timeout=60)
    overrides = {
        "http": {"rate_per_second": 1e6, "rate_burst": 1_000_000},
        "development": {"pretend_cpus": 32, "pretend_memory_gb": 64},
        "disk": {"warn_percent": 70, "critical_percent": 75, "guard_percent": 80},
    }
    try:
        with MiniStack(
            state, machine, overrides=overrides, parts=("podman", "rsyncd", "api")
        ) as stack:
            yield stack
    finally:
        for place in (artifacts, state):
            subprocess.run(["umount", "--lazy", str(place)], check=False, timeout=20)
        shutil.rmtree(state, ignore_errors=True)


@pytest.fixture
def one_disk(machine: Machine) -> Iterator[MiniStack]:
    """A stack that has one small disk for everything; what it says itself goes to the journal."""
    state = Path(tempfile.mkdtemp(prefix="o-", dir=os.environ["FLASHPODS_TEST_TMP"]))
    journal = state / "services"
    for place, size in ((state, 600 * MB), (journal, 50 * MB)):
        place.mkdir(exist_ok=True)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "small"]
        subprocess.run([*mount, str(place)], check=True, timeout=60)
    try:
        with MiniStack(state, machine, parts=("podman", "rsyncd", "api")) as stack:
            yield stack
    finally:
        for place in (journal, state):
            subprocess.run(["umount", "--lazy", str(place)], check=False, timeout=20)
        shutil.rmtree(state, ignore_errors=True)


@pytest.mark.parametrize("then", ["sleep 600", "exit 3"])
@pytest.mark.attack(8, "a job fills the one disk of the host at once")
async def test_nothing_can_be_written(one_disk: MiniStack, score: Score, then: str) -> None:
    """Too quick for anybody: neither the database nor the engine has room to note its end."""
    score.note(then)
    greed = (
        f"i=0; while fallocate -l 16M /tmp/f$i; do i=$((i+1)); done; cat /dev/zero > /tmp/f; {then}"
    )
    async with support.connect(one_disk) as host:
        neighbour = await support.submit(host.client, "sleep 600")
        await support.until(host.client, neighbour, "running")
        job_id = await support.submit(host.client, greed)
        began = time.monotonic()
        with score.attempt():
            row = await support.ended(host.client, job_id)
            # One that ends by itself may do so before anybody has told it to.
            itself = then != "sleep 600" and (row["exit_code"], row["error"]) == (3, None)
            assert row["status"] == "failed", row
            assert itself or row["error"] == "host_disk_full", row
            score.figure("from its post to its end", time.monotonic() - began, 30)
        with score.attempt():
            assert (await support.row_of(host.client, neighbour))["status"] == "running"
            after = await support.run(host.client, "head -c 100M /dev/zero > /tmp/x")
            assert after["status"] == "completed", after


@pytest.mark.attack(8, "many jobs fill the host's disk, each within its budget")
async def test_guard(crowded: MiniStack, score: Score) -> None:
    """The one that holds most goes before the disk is full; the others complete."""
    wait = "while [ ! -e /artifacts/go ]; do sleep 0.1; done; rm /artifacts/go"
    # Slower than a disk: what fills one within a tenth of a second, nobody can stop. By its own
    # clock it takes a second from the first block to the guard, and eight more to the bound.
    greed = "head -c 280M /dev/zero > /artifacts/big; while :; do head -c 1M /dev/zero >> /artifacts/big; sleep 0.1; done"
    async with support.connect(crowded) as host:
        artifacts = host.settings.paths.artifacts

        def used() -> float:
            info = os.statvfs(artifacts)
            return 1 - info.f_bfree / info.f_blocks

        good = [
            await support.submit(host.client, f"head -c {n}M /dev/zero > /artifacts/a; {wait}")
            for n in (150, 200)
        ]
        for job_id in good:
            await support.until(host.client, job_id, "running")
        greedy = await support.submit(host.client, greed)
        end = asyncio.create_task(support.ended(host.client, greedy))
        most = 0.0
        while not end.done():
            most = max(most, used())
            await asyncio.wait({end}, timeout=0.02)
        row = await end
        with score.attempt():
            assert (row["status"], row["error"]) == ("failed", "host_disk_full"), row
            score.figure("the disk was full", 100 * most, 90, "%")
        with score.attempt():
            for job_id in good:
                (artifacts / ".staging" / job_id / "go").touch()
                left = await support.ended(host.client, job_id)
                assert (left["status"], left["error"]) == ("completed", None), left
