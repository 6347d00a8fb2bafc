"""The cleanup sweeps what crashes leave, touches nothing else, and outlives any failure."""

import asyncio
import threading
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flashpods.adapters.files import tree_tool, trees
from flashpods.adapters.files.artifacts import FileArtifactStore
from flashpods.adapters.files.logs import FileLogStore
from flashpods.adapters.files.workspaces import FileWorkspaces
from flashpods.jobs import cleanup
from flashpods.jobs.admission import Bounds
from flashpods.jobs.cleanup import Cleaner, Retention
from flashpods.jobs.model import Capacity, Grant, Job, JobType, Outcome, Step, UploadState
from flashpods.jobs.states import Trigger
from flashpods.jobs.submit import Submitter
from flashpods.testing.clock import ManualClock
from flashpods.testing.files import FakeDiskGauge
from flashpods.testing.runtime import MemoryRuntime, simple_spec
from flashpods.testing.stores import MemoryStore

JOB = "0123456789abcdef"
UPLOAD = "upload_abcdefghijkl"
GB = 2**30
# By which files may be younger than the clock: it stands still while a busy machine makes them.
SLACK = 600


@dataclass
class World:
    """The real files, everything else in memory; the clock begins at the files' time."""

    root: Path
    clock: ManualClock = field(default_factory=lambda: ManualClock(datetime.now(UTC)))
    store: MemoryStore = field(default_factory=MemoryStore)
    runtime: MemoryRuntime = field(default_factory=MemoryRuntime)

    def __post_init__(self) -> None:
        trees = [self.root / name for name in ("transfers", "finalized", "work")]
        for path in trees:
            path.mkdir()
        self.workspaces = FileWorkspaces(*trees)
        self.logs = FileLogStore(self.root / "logs", self.root / "capture", log_bytes=2**20)
        self.artifacts = FileArtifactStore(
            self.root / "artifacts", file_bytes=GB, job_bytes=GB, max_files=10
        )
        self.artifacts.check()
        self.cleaner = Cleaner(
            store=self.store,
            uploads=self.store,
            logs=self.logs,
            artifacts=self.artifacts,
            workspaces=self.workspaces,
            runtime=self.runtime,
            clock=self.clock,
            retention=Retention(
                logs=timedelta(days=1),
                jobs=timedelta(days=7),
                artifacts=timedelta(hours=1),
                uploads=timedelta(hours=1),
                rows=timedelta(days=7),
                orphan_grace=timedelta(seconds=15),
                logs_total_bytes=GB,
                images_total_bytes=GB,
            ),
            every=60,
        )

    async def active(self) -> Job:
        one = Grant(cpus=1, memory_gb=1, timeout_minutes=1)
        bounds = Bounds(default=one, most=one)
        submitter = Submitter(
            store=self.store,
            clock=self.clock,
            disk=FakeDiskGauge(),
            critical=0.9,
            capacity=Capacity(cpus=8, memory_gb=8),
            bounds={JobType.WORKER: bounds},
            images={JobType.WORKER: "localhost/i:1"},
            accepted=lambda _: None,
        )
        job, _ = await submitter.submit({"type": "worker", "command": "true"})
        return job

    async def ended(self) -> Job:
        job = await self.active()
        step = Step(why="test", at=self.clock.now(), outcome=Outcome(exit_code=1))
        return await self.store.advance(job.id, job.status, Trigger.FAIL, step)


@pytest.fixture
async def world(tmp_path: Path) -> Any:
    world = World(tmp_path)
    yield world
    await world.logs.close()
    await world.artifacts.close()


def tree(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "f").touch()
    return path


async def test_foreign_files_are_let_be(world: World) -> None:
    names = ["logs/a.b.log", "logs/README.log", "work/.x", "artifacts/.staging/a.b"]
    names += ["capture/lost+found", "finalized/lost+found", "artifacts/lost+found", "work/a b"]
    for name in names:
        tree(world.root / name)
    tree(world.root / "artifacts" / JOB)
    (world.root / "logs" / f"{JOB}.log").touch()
    world.clock.advance(30 * 86400)
    report = await world.cleaner.run_once()
    assert (report.done, report.failed) == ({"sweep_job_files": 2}, {})
    assert all((world.root / name / "f").exists() for name in names)


async def test_a_defect_stops_neither_the_round_nor_the_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree(world.root / "artifacts" / JOB)
    tree(world.root / "work" / JOB)

    async def broken(*_: object, **__: object) -> None:
        raise ValueError("nobody foresaw this")

    monkeypatch.setattr(world.workspaces, "discard", broken)
    monkeypatch.setattr(world.workspaces, "transferring", broken)
    report = await world.cleaner.run_once()
    assert report.failed == {"adopt_uploads": 1, "sweep_uploads": 1, "sweep_job_files": 1}
    assert report.done == {"sweep_job_files": 1}
    assert not (world.root / "artifacts" / JOB).exists()
    stop = asyncio.Event()
    task = asyncio.create_task(world.cleaner.run(stop))
    stop.set()
    async with asyncio.timeout(30):
        await task


async def test_a_finalized_tree_without_a_row_goes_after_a_grace(world: World) -> None:
    orphan = tree(world.root / "finalized" / UPLOAD)
    half = tree(world.root / "finalized" / ".rm-upload_half_deleted")
    world.clock.advance(310)
    assert (await world.cleaner.run_once()).done == {}
    assert orphan.exists()
    world.clock.advance(SLACK)
    assert (await world.cleaner.run_once()).done == {"sweep_uploads": 2}
    assert not orphan.exists()
    assert not half.exists()


async def test_a_finalized_tree_with_a_row_stays(world: World) -> None:
    kept = tree(world.root / "finalized" / UPLOAD)
    now = world.clock.now()
    await world.store.adopt(UPLOAD, at=now, expires_at=now + timedelta(hours=9))
    world.clock.advance(8 * 3600)
    await world.cleaner.run_once()
    assert kept.exists()


async def test_spares_and_bases_go_by_age(world: World) -> None:
    spare = world.root / "work" / f".link-{JOB}"
    spare.symlink_to("x")
    base = tree(world.root / "transfers" / ".bases" / "project")
    half = tree(world.root / "transfers" / ".bases" / ".rm-former")
    assert (await world.cleaner.run_once()).done == {}
    world.clock.advance(310 + SLACK)
    assert (await world.cleaner.run_once()).done == {"sweep_trees": 1}
    assert not spare.is_symlink()
    world.clock.advance(7 * 86400)
    assert (await world.cleaner.run_once()).done == {"sweep_trees": 1}
    assert not base.exists()
    assert not half.exists()


@pytest.mark.parametrize("where", [".staging", ".collecting"])
async def test_what_a_collection_left_goes_once_the_job_has_ended(world: World, where: str) -> None:
    job = await world.ended()
    left = tree(world.root / "artifacts" / where / job.id)
    collected = tree(world.root / "artifacts" / job.id)
    world.clock.advance(10)
    assert (await world.cleaner.run_once()).done == {}
    world.clock.advance(10)
    assert (await world.cleaner.run_once()).done == {"sweep_staged": 1}
    assert not left.exists()
    assert collected.exists()


async def test_one_ended_job_is_cleaned_when_it_is_asked_for(world: World) -> None:
    """Whatever its retention; the others stay, and asking again changes nothing."""
    job, other = await world.ended(), await world.ended()
    for one in (job, other):
        await world.logs.write(one.id, "said", at=world.clock.now())
        await world.logs.drain(one.id)
    assert await world.cleaner.finish(job.id)
    found = await world.store.known([job.id, other.id])
    assert [found[one.id].status.value for one in (job, other)] == ["cleaned", "failed"]
    assert [job_id for job_id, _ in await world.logs.stored()] == [other.id]
    assert (await world.store.events(job.id))[-2].why == "asked for"
    assert await world.cleaner.finish(job.id)


async def test_what_has_not_ended_is_not_cleaned(world: World) -> None:
    job = await world.active()
    assert not await world.cleaner.finish(job.id)
    assert not await world.cleaner.finish("0" * 16)
    found = await world.store.known([job.id])
    assert found[job.id].status.value == "pending"


async def test_jobs_without_a_log_keep_the_quota_from_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many ended before they had one."""
    monkeypatch.setattr(cleanup, "BATCH", 2)
    for _ in range(3):
        await world.ended()
    world.clock.advance(1)
    older, newer = await world.ended(), await world.ended()
    for job in (older, newer):
        await world.logs.write(job.id, "x" * 100_000, at=world.clock.now())
        await world.logs.drain(job.id)
        world.clock.advance(1)
    world.cleaner._keep = replace(world.cleaner._keep, logs_total_bytes=150_000)
    assert (await world.cleaner.run_once()).done == {"trim_logs": 1}
    assert [job_id for job_id, _ in await world.logs.stored()] == [newer.id]


async def test_a_round_at_work_is_broken_off(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tree may take minutes to delete; the next process goes on with it."""
    left = tree(world.root / "work" / JOB)
    at_work = asyncio.Event()

    async def endless(_job: str) -> None:
        at_work.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patched:
        patched.setattr(world.workspaces, "discard", endless)
        stop = asyncio.Event()
        task = asyncio.create_task(world.cleaner.run(stop))
        await at_work.wait()
        stop.set()
        async with asyncio.timeout(30):
            await task
    assert left.exists()
    assert (await world.cleaner.run_once()).done == {"sweep_job_files": 1}


async def test_two_that_clean_at_once_are_not_in_each_others_way(world: World) -> None:
    """The service, and an operator's ``clean`` beside it."""
    jobs = [await world.ended() for _ in range(5)]
    world.clock.advance(3600)
    reports = await asyncio.gather(
        *(world.cleaner.finish_older(timedelta(minutes=1)) for _ in range(2))
    )
    assert [report.failed for report in reports] == [{}, {}]
    assert sum(report.done.get("finish_jobs", 0) for report in reports) == len(jobs)
    found = await world.store.known([job.id for job in jobs])
    assert {job.status.value for job in found.values()} == {"cleaned"}


async def test_the_tree_of_a_job_that_was_ended_by_hand_goes(world: World) -> None:
    """With ``UPDATE jobs``, as the seed's guide did it: nothing of ours released the tree."""
    now = world.clock.now()
    await world.store.reserve(UPLOAD, project=None, at=now, expires_at=now)
    job = await world.ended()
    world.store._change_upload(UPLOAD, job_id=job.id)
    assert (await world.cleaner.run_once()).done == {"expire_uploads": 1}
    upload = await world.store.get_upload(UPLOAD)
    assert upload is not None
    assert upload.state is UploadState.EXPIRED


async def test_the_tree_of_an_active_job_stays_and_counts_as_nothing_done(world: World) -> None:
    now = world.clock.now()
    await world.store.reserve(UPLOAD, project=None, at=now, expires_at=now)
    job = await world.active()
    world.store._change_upload(UPLOAD, job_id=job.id)
    assert (await world.cleaner.run_once()).done == {}
    upload = await world.store.get_upload(UPLOAD)
    assert upload is not None
    assert upload.state is UploadState.UPLOADING


async def test_the_container_of_a_job_that_just_ended_is_left_to_the_api(world: World) -> None:
    """It removes it right after the end; what it does not get to is cleanup's after a grace."""
    job = await world.ended()
    lost = simple_spec(JOB)
    for spec in (simple_spec(job.id), lost):
        await world.runtime.create(spec)
    report = await world.cleaner.run_once()
    assert (report.done, report.failed) == ({"sweep_containers": 1}, {})
    assert await world.runtime.inspect(lost.name) is None
    assert await world.runtime.inspect(job.container_name) is not None
    world.clock.advance(16)
    report = await world.cleaner.run_once()
    assert (report.done, report.failed) == ({"sweep_containers": 1}, {})
    assert await world.runtime.containers() == []


async def test_a_workspace_that_becomes_a_base_is_left_to_the_next_round(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That may take longer than the grace after a job's end."""
    job = await world.ended()
    tree(world.root / "work" / job.id)
    at_work, go = threading.Event(), threading.Event()
    arm = trees.arm

    def slow(*arguments: Any) -> None:
        at_work.set()
        assert go.wait(30)
        arm(*arguments)

    monkeypatch.setattr(tree_tool, "arm", slow)
    kept = asyncio.create_task(world.workspaces.keep_as_base(job.id, "proj", keep=1))
    assert await asyncio.to_thread(at_work.wait, 30)
    world.clock.advance(16)
    report = await world.cleaner.run_once()
    assert (report.done, report.failed) == ({}, {})
    go.set()
    await kept
    assert (world.root / "transfers" / ".bases" / "proj" / "f").exists()
    report = await world.cleaner.run_once()
    assert (report.done, report.failed) == ({}, {})
