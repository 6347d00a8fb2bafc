"""A job's line from end to end over the in-memory adapters: every turn it can take.

What belongs to Podman, SQLite and the disk is shown in tests/contract and tests/system.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flashpods.errors import Conflict, InsufficientStorage, Unavailable
from flashpods.jobs.changes import InProcessChanges
from flashpods.jobs.disk import FIRST_SECONDS, Budget, DiskWatch
from flashpods.jobs.line import Line, Policy
from flashpods.jobs.model import (
    Capacity,
    FinalTree,
    Grant,
    Job,
    JobType,
    NewJob,
    Note,
    Phase,
    Step,
    UploadState,
    container_name,
)
from flashpods.jobs.recovery import LATE_LOOK, Recovery
from flashpods.jobs.states import JobStatus, Trigger
from flashpods.jobs.supervisor import Supervisor
from flashpods.ports import ContainerSpec, ContainerState, DiskUse, Limits, RecoveryAction
from flashpods.testing.clock import ManualClock
from flashpods.testing.files import FakeArtifactStore, FakeDiskMeter, FakeWorkspaces
from flashpods.testing.logs import MemoryLogStore
from flashpods.testing.runtime import IMAGE, MemoryRuntime, Script
from flashpods.testing.stores import MemoryStore

HOST = Capacity(cpus=8, memory_gb=32)


class World:
    """The adapters outlive the use cases, as the host outlives a process of ours."""

    def __init__(self, root: Path) -> None:
        self.clock = ManualClock()
        self.runtime = MemoryRuntime(now=self.clock.now)
        self.store = MemoryStore()
        self.logs = MemoryLogStore()
        self.artifacts = FakeArtifactStore(root / "artifacts")
        self.workspaces = FakeWorkspaces(root)
        self.policy = Policy()
        self.changes = InProcessChanges()
        self.meter = FakeDiskMeter()
        self.told: list[Job] = []
        self.recoveries: list[RecoveryAction] = []
        self.supervisor: Supervisor
        self.recovery: Recovery
        self.boot()

    def boot(self) -> None:
        """Start a process of ours: new use cases over what is there."""
        budget = Budget(bytes=2**30, entries=1000, guard=1)
        self.disk = DiskWatch(self.meter, self.runtime, self.clock, budget)
        line = Line(
            store=self.store,
            uploads=self.store,
            runtime=self.runtime,
            logs=self.logs,
            artifacts=self.artifacts,
            workspaces=self.workspaces,
            clock=self.clock,
            changes=self.changes,
            disk=self.disk,
            policy=self.policy,
            observer=self,
        )
        self.supervisor = Supervisor(line)
        self.recovery = Recovery(line, self.supervisor)

    def entered(self, job: Job) -> None:
        self.told.append(job)

    def recovered(self, action: RecoveryAction) -> None:
        self.recoveries.append(action)

    async def crash(self) -> None:
        """Leave everything where it is and start anew."""
        await self.supervisor.close()
        self.boot()

    async def accept(self, **fields: object) -> Job:
        new = NewJob(
            id=secrets.token_hex(8),
            client_job_id=None,
            request_sha256="",
            type=JobType.WORKER,
            command="make",
            task=None,
            context=None,
            git_branch=None,
            files_id=None,
            image=IMAGE,
            grant=Grant(cpus=1, memory_gb=1, timeout_minutes=1),
        )
        changed = replace(new, **fields)  # type: ignore[arg-type]  # the tests' own shorthand
        job, _ = await self.store.submit(changed, capacity=HOST, at=self.clock.now())
        return job

    async def running(self, **fields: object) -> Job:
        job = await self.accept(**fields)
        self.supervisor.begin(job)
        await self.runtime.until(job.container_name, "running")
        return await self.until(job, JobStatus.RUNNING)

    async def until(self, job: Job, status: JobStatus) -> Job:
        async with asyncio.timeout(30):
            while (row := await self.store.get(job.id)) is None or row.status is not status:
                await self.changes.wait(job.id, 0.02)
            return row

    async def ended(self, job: Job) -> Job:
        async with asyncio.timeout(30):
            await self.supervisor.idle()
        row = await self.store.get(job.id)
        assert row is not None
        assert row.terminal
        assert await self.runtime.inspect(job.container_name) is None, "the container stays"
        assert await self.workspaces.claimed() == [], "the workspace stays"
        assert (await self.store.reserved()).jobs == 0, "resources stay reserved"
        return row

    async def history(self, job: Job) -> list[str]:
        return [event.to_status.value for event in await self.store.events(job.id)]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    yield world
    await world.supervisor.close()


async def test_a_worker_runs_and_leaves_nothing_behind(world: World) -> None:
    def leave(spec: ContainerSpec) -> None:
        target = {m.target: m.source for m in spec.mounts}["/artifacts"]
        (target / "report.txt").write_text("fine")

    world.runtime.default = Script(exits=0, on_start=leave)
    job = await world.accept()
    world.supervisor.begin(job)
    row = await world.ended(job)
    assert [(told.status, told.phase) for told in world.told] == [
        (JobStatus.STARTING, Phase.CREATING),
        (JobStatus.RUNNING, None),
        (JobStatus.RUNNING, Phase.COLLECTING),
        (JobStatus.COMPLETED, None),
    ]
    assert world.told[-1] == row
    assert (row.status, row.exit_code, row.error, row.phase) == (JobStatus.COMPLETED, 0, None, None)
    assert [a.name for a in await world.store.artifacts(job.id)] == ["report.txt"]
    assert await world.history(job) == ["pending", "starting", "running", "completed"]
    assert world.runtime.created == [job.container_name]


async def test_what_the_container_is_asked_to_be(world: World) -> None:
    job = await world.running()
    spec = world.runtime.spec(job.container_name)
    assert spec.argv[0] == "/bin/sh"
    assert spec.argv[-1] == "make"
    assert spec.env["FLASHPODS_JOB_ID"] == job.id
    assert {m.target: m.read_only for m in spec.mounts} == {"/work": True, "/artifacts": False}
    assert spec.limits == Limits(cpus=1, memory_bytes=1024**3, pids=2048)
    assert spec.backstop_seconds > 60


async def test_an_agent_gets_its_task_by_environment_and_may_write_its_work(world: World) -> None:
    job = await world.running(
        type=JobType.AGENT, command=None, task="do", context="why", git_branch="b"
    )
    spec = world.runtime.spec(job.container_name)
    assert spec.argv[-1].startswith("exec /entrypoint.sh")
    assert {k: v for k, v in spec.env.items() if k.startswith("FLASHPODS_")} == {
        "FLASHPODS_JOB_ID": job.id,
        "FLASHPODS_TASK": "do",
        "FLASHPODS_CONTEXT": "why",
        "FLASHPODS_GIT_BRANCH": "b",
    }
    assert {m.target: m.read_only for m in spec.mounts}["/work"] is False


async def test_agents_and_only_they_get_what_the_host_tells_them(world: World) -> None:
    world.policy = Policy(agent_env={"FLASHPODS_GIT_URL": "u", "FLASHPODS_TASK": "the host's"})
    world.boot()
    worker = await world.running()
    assert "FLASHPODS_GIT_URL" not in world.runtime.spec(worker.container_name).env
    agent = await world.running(type=JobType.AGENT, command=None, task="do", git_branch="b")
    env = world.runtime.spec(agent.container_name).env
    assert (env["FLASHPODS_GIT_URL"], env["FLASHPODS_TASK"]) == ("u", "do")


async def test_an_agents_entrypoint_gives_its_job_an_error(world: World) -> None:
    job = await world.running(type=JobType.AGENT, command=None, task="do", git_branch="b")
    world.runtime.exit(job.container_name, 205)
    row = await world.ended(job)
    assert (row.status, row.exit_code, row.error) == (JobStatus.FAILED, 205, "git_push_failed")


@pytest.mark.parametrize("code", [1, 126, 127, 137, 255])
async def test_another_exit_code_is_a_failure(world: World, code: int) -> None:
    job = await world.running()
    world.runtime.exit(job.container_name, code)
    row = await world.ended(job)
    assert (row.status, row.exit_code, row.error) == (JobStatus.FAILED, code, None)


async def test_out_of_memory_has_its_own_error(world: World) -> None:
    job = await world.running()
    world.runtime.exit(job.container_name, 137, oom_killed=True)
    row = await world.ended(job)
    assert (row.status, row.exit_code, row.error) == (JobStatus.FAILED, 137, "oom_killed")


async def test_a_timeout_is_sigterm_then_grace_then_sigkill(world: World) -> None:
    world.runtime.default = Script(ignores_sigterm=True)
    job = await world.running()
    await world.clock.until_sleeping()
    world.clock.advance(60)
    await world.clock.until_sleeping()
    world.clock.advance(9)
    assert world.runtime.signals(job.container_name) == ["SIGTERM"]
    world.clock.advance(1)
    row = await world.ended(job)
    assert (row.status, row.exit_code) == (JobStatus.TIMED_OUT, 137)
    assert row.error == "Job exceeded timeout limit"


async def test_the_engines_backstop_is_a_timeout_too(world: World) -> None:
    job = await world.running()
    world.runtime.hit_backstop(job.container_name)
    assert (await world.ended(job)).status is JobStatus.TIMED_OUT


async def test_cancel_while_running(world: World) -> None:
    job = await world.running()
    shown = await world.supervisor.cancel(job.id)
    assert shown.status is JobStatus.RUNNING
    assert shown.cancel_requested_at is not None
    await world.supervisor.cancel(job.id)  # repeated: fine
    row = await world.ended(job)
    assert (row.status, row.exit_code) == (JobStatus.CANCELLED, 143)
    with pytest.raises(Conflict) as refused:
        await world.supervisor.cancel(job.id)
    assert refused.value.code == "job_already_terminal"


async def test_cancel_before_the_launch_makes_no_container(world: World) -> None:
    job = await world.accept()
    await world.supervisor.cancel(job.id)
    world.supervisor.begin(await row_of(world, job))
    assert (await world.ended(job)).status is JobStatus.CANCELLED
    assert world.runtime.created == []


async def row_of(world: World, job: Job) -> Job:
    row = await world.store.get(job.id)
    assert row is not None
    return row


async def test_cancel_while_the_engine_is_away(world: World) -> None:
    world.runtime.set_up(False)
    job = await world.accept()
    world.supervisor.begin(job)
    await world.until(job, JobStatus.STARTING)
    await world.supervisor.cancel(job.id)
    await world.clock.until_sleeping()
    assert not (await row_of(world, job)).terminal, "resources are given away unseen"
    world.runtime.set_up(True)
    world.clock.advance(10)
    assert (await world.ended(job)).status is JobStatus.CANCELLED


async def test_a_cancelled_job_never_becomes_completed(world: World) -> None:
    job = await world.running()
    await world.store.request_cancel(job.id, at=world.clock.now())
    world.runtime.exit(job.container_name, 0)
    assert (await world.ended(job)).status is JobStatus.CANCELLED


async def test_limits_that_do_not_hold_end_the_job_before_its_command(world: World) -> None:
    world.runtime.default = Script(enforced=False)
    job = await world.accept()
    world.supervisor.begin(job)
    row = await world.ended(job)
    assert (row.status, row.error) == (JobStatus.FAILED, "limits_not_enforced")
    assert await world.history(job) == ["pending", "starting", "failed"]


async def test_a_development_machine_may_do_without_limits_and_says_so(world: World) -> None:
    world.runtime.enforceable = False
    world.policy = Policy(allow_unenforced_limits=True)
    world.boot()
    world.runtime.default = Script(exits=0)
    job = await world.accept()
    world.supervisor.begin(job)
    row = await world.ended(job)
    assert row.status is JobStatus.COMPLETED
    assert "limits are not enforced" in row.warnings[0]


async def test_a_missing_image(world: World) -> None:
    job = await world.accept(image="nowhere/nothing:1")
    world.supervisor.begin(job)
    row = await world.ended(job)
    assert (row.status, row.error) == (JobStatus.FAILED, "image_not_found")
    tail = await world.logs.tail(job.id, 10)
    assert tail is not None
    assert "nowhere/nothing:1" in tail.output


async def test_a_pull_is_told_in_the_log(world: World) -> None:
    world.runtime.registry.add("some/thing:1")
    world.runtime.default = Script(exits=0)
    job = await world.accept(image="some/thing:1")
    world.supervisor.begin(job)
    assert (await world.ended(job)).status is JobStatus.COMPLETED
    tail = await world.logs.tail(job.id, 10)
    assert tail is not None
    assert "pull some/thing:1" in tail.output


async def test_a_slow_pull_holds_up_no_other_launch(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.policy = Policy(launch_slots=1)
    world.boot()
    pulling = asyncio.Event()
    real = world.runtime.ensure_image

    async def slow(image: str, progress: Any) -> None:
        if image == "slow/image:1":
            await progress("Trying to pull slow/image:1...")
            pulling.set()
            await asyncio.Event().wait()
        await real(image, progress)

    monkeypatch.setattr(world.runtime, "ensure_image", slow)
    world.supervisor.begin(await world.accept(image="slow/image:1"))
    await asyncio.wait_for(pulling.wait(), 5)
    other = await world.running()
    assert other.status is JobStatus.RUNNING


async def test_a_job_without_a_launch_slot_is_pending(world: World) -> None:
    world.policy = Policy(launch_slots=1)
    world.boot()
    world.runtime.set_up(False)
    first, second = await world.accept(), await world.accept()
    for job in (first, second):
        world.supervisor.begin(job)
    await world.until(first, JobStatus.STARTING)
    await world.clock.until_sleeping()
    assert (await row_of(world, second)).status is JobStatus.PENDING
    await world.supervisor.cancel(second.id)


async def test_stuck_in_starting(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.policy = Policy(starting=0.05)
    world.boot()

    async def never(*_args: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(world.runtime, "ensure_image", never)
    job = await world.accept()
    world.supervisor.begin(job)
    row = await world.ended(job)
    assert (row.status, row.error) == (JobStatus.FAILED, "stuck_in_starting")


async def test_an_engine_that_is_away_for_a_while_is_waited_for(world: World) -> None:
    world.runtime.set_up(False)
    world.runtime.default = Script(exits=0)
    job = await world.accept()
    world.supervisor.begin(job)
    await world.clock.until_sleeping()
    world.runtime.set_up(True)
    world.clock.advance(1)
    assert (await world.ended(job)).status is JobStatus.COMPLETED
    assert world.runtime.created == [job.container_name]


async def test_an_upload_becomes_the_workspace_and_is_consumed(world: World) -> None:
    upload_id = "upload_" + "a" * 12
    now = world.clock.now()
    await world.store.adopt(upload_id, at=now, expires_at=now.replace(year=now.year + 1))
    tree = world.workspaces.transfers / upload_id
    tree.mkdir(parents=True)
    (tree / "Makefile").write_text("all:")
    size = await world.workspaces.finalize(upload_id, max_bytes=1000)
    await world.store.begin_finalize(upload_id, at=now)
    final = FinalTree(
        at=now,
        expires_at=now.replace(year=now.year + 1),
        size_bytes=size.size_bytes,
        file_count=size.file_count,
        total_quota_bytes=10**9,
    )
    await world.store.complete_finalize(upload_id, final)
    job = await world.running(files_id=upload_id)
    work = {m.target: m.source for m in world.runtime.spec(job.container_name).mounts}["/work"]
    assert (work / "Makefile").read_text() == "all:"
    upload = await world.store.get_upload(upload_id)
    assert upload is not None
    assert upload.state is UploadState.CONSUMED
    world.runtime.exit(job.container_name, 0)
    await world.ended(job)


# ------------------------------------------------------------------ recovery: contract 2's table


async def recovered(world: World) -> None:
    await world.recovery.run_once()


async def test_recovery_running_running(world: World) -> None:
    job = await world.running()
    await world.crash()
    await recovered(world)
    assert world.supervisor.has(job.id)
    assert world.recoveries == ["resumed"]
    world.runtime.exit(job.container_name, 0)
    assert (await world.ended(job)).status is JobStatus.COMPLETED
    assert world.runtime.created == [job.container_name]


async def test_recovery_exited_running(world: World) -> None:
    job = await world.running()
    await world.crash()
    world.runtime.exit(job.container_name, 3)
    await recovered(world)
    row = await world.ended(job)
    assert (row.status, row.exit_code) == (JobStatus.FAILED, 3)


async def test_recovery_exited_after_the_deadline(world: World) -> None:
    job = await world.running()
    await world.crash()
    world.clock.advance(61)
    world.runtime.hit_backstop(job.container_name)
    await recovered(world)
    assert (await world.ended(job)).status is JobStatus.TIMED_OUT


async def test_recovery_none_pending(world: World) -> None:
    world.runtime.default = Script(exits=0)
    job = await world.accept()
    await recovered(world)
    assert world.recoveries == ["restarted"]
    assert (await world.ended(job)).status is JobStatus.COMPLETED


async def test_recovery_none_pending_with_its_upload_gone(world: World) -> None:
    upload_id = "upload_" + "b" * 12
    now = world.clock.now()
    later = now.replace(year=now.year + 1)
    await world.store.adopt(upload_id, at=now, expires_at=later)
    await world.store.begin_finalize(upload_id, at=now)
    final = FinalTree(at=now, expires_at=later, size_bytes=1, file_count=1, total_quota_bytes=100)
    await world.store.complete_finalize(upload_id, final)
    job = await world.accept(files_id=upload_id)
    await recovered(world)
    row = await world.ended(job)
    assert (row.status, row.error) == (JobStatus.FAILED, "upload_lost")
    upload = await world.store.get_upload(upload_id)
    assert upload is not None
    assert upload.state is UploadState.EXPIRED


async def starting(world: World, *, status: str | None) -> Job:
    """Leave a job as a crash in the middle of its launch does."""
    job = await world.accept()
    now = world.clock.now()
    job = await world.store.advance(job.id, job.status, Trigger.LAUNCH, Step(why="test", at=now))
    if status is not None:
        await world.workspaces.claim(None, job.id)
        await world.artifacts.prepare(job.id)
        container_id = await world.runtime.create(spec_of(world, job))
        if status != "initialized":
            await world.runtime.start(container_id)
        if status == "exited":
            world.runtime.exit(job.container_name, 0)
    return job


def spec_of(world: World, job: Job) -> ContainerSpec:
    return ContainerSpec(
        job_id=job.id,
        job_type="worker",
        name=job.container_name,
        image=IMAGE,
        argv=("true",),
        env={},
        workdir="/work",
        mounts=(),
        limits=Limits(cpus=1, memory_bytes=1024**3, pids=2048),
        backstop_seconds=100,
        log_path=world.logs.capture_path(job.id),
        enforce_limits=True,
    )


async def test_recovery_none_starting(world: World) -> None:
    job = await starting(world, status=None)
    await recovered(world)
    row = await world.ended(job)
    assert (row.status, row.error) == (JobStatus.FAILED, "container_not_found_on_recovery")


async def test_recovery_initialized_starting_goes_on_with_the_launch(world: World) -> None:
    job = await starting(world, status="initialized")
    await recovered(world)
    await world.runtime.until(job.container_name, "running")
    world.runtime.exit(job.container_name, 0)
    assert (await world.ended(job)).status is JobStatus.COMPLETED
    assert world.runtime.created == [job.container_name]


async def test_recovery_running_starting(world: World) -> None:
    job = await starting(world, status="running")
    await recovered(world)
    await world.until(job, JobStatus.RUNNING)
    world.runtime.exit(job.container_name, 0)
    assert (await world.ended(job)).status is JobStatus.COMPLETED


async def test_recovery_exited_starting(world: World) -> None:
    job = await starting(world, status="exited")
    await recovered(world)
    assert (await world.ended(job)).status is JobStatus.COMPLETED
    assert await world.history(job) == ["pending", "starting", "running", "completed"]


async def test_recovery_none_running(world: World) -> None:
    job = await world.running()
    await world.crash()
    world.runtime.vanish(job.container_name)
    await recovered(world)
    row = await world.ended(job)
    assert (row.status, row.error) == (JobStatus.FAILED, "container_lost_on_recovery")


async def test_recovery_after_a_reboot_does_not_run_the_command_again(world: World) -> None:
    job = await world.running()
    await world.crash()
    world.runtime.reboot()
    await recovered(world)
    row = await world.ended(job)
    assert (row.status, row.error) == (JobStatus.FAILED, "container_lost_on_recovery")


async def test_recovery_after_a_reboot_while_starting(world: World) -> None:
    job = await starting(world, status="running")
    world.runtime.reboot()
    await recovered(world)
    row = await world.ended(job)
    assert (row.status, row.error) == (JobStatus.FAILED, "container_not_found_on_recovery")


async def test_a_stop_gives_up_on_a_container_that_does_not_run(world: World) -> None:
    job = await world.running()
    world.runtime.reboot()
    await world.supervisor.cancel(job.id)
    for _ in range(2):  # the grace period, and the one after SIGKILL
        await world.clock.until_sleeping(2)  # beside it the job's own deadline
        world.clock.advance(10)
    assert (await world.ended(job)).status is JobStatus.CANCELLED


async def test_recovery_takes_the_containers_own_time_of_start(world: World) -> None:
    job = await starting(world, status="running")
    began = world.clock.now()
    world.clock.advance(50)
    await recovered(world)
    assert (await world.until(job, JobStatus.RUNNING)).started_at == began


async def test_a_launch_repeated_by_recovery_has_the_rest_of_its_time(world: World) -> None:
    job = await starting(world, status="initialized")
    world.clock.advance(301)
    await recovered(world)
    row = await world.ended(job)
    assert (row.status, row.error) == (JobStatus.FAILED, "stuck_in_starting")


async def test_one_orphan_that_stays_keeps_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [await starting(world, status="running") for _ in range(2)]
    for job in jobs:
        step = Step(why="test", at=world.clock.now())
        await world.store.advance(job.id, JobStatus.STARTING, Trigger.FAIL, step)
    stuck = await world.runtime.inspect(jobs[0].container_name)
    assert stuck is not None
    remove = world.runtime.remove

    async def fails(name_or_id: str) -> None:
        if name_or_id == stuck.id:
            raise Unavailable("it does not go")
        await remove(name_or_id)

    monkeypatch.setattr(world.runtime, "remove", fails)
    await recovered(world)
    assert world.runtime.removed == [jobs[1].container_name]
    assert world.recoveries.count("orphan_stayed") == 1
    assert world.recoveries.count("orphan_removed") == 1


async def test_what_a_removal_cut_short_left_is_removed(world: World) -> None:
    active = await starting(world, status="running")
    ended = await starting(world, status="running")
    now = world.clock.now()
    await world.store.advance(ended.id, JobStatus.STARTING, Trigger.FAIL, Step(why="test", at=now))
    await world.runtime.remove(ended.container_name)
    lost = container_name("f" * 16)  # of no row at all
    world.runtime.left |= {ended.container_name, lost, "of-somebody-else"}
    await recovered(world)
    assert world.runtime.left == {"of-somebody-else"}
    assert active.container_name not in world.runtime.removed


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(28, "No space left on device"), "insufficient_storage"),
        (InsufficientStorage("full"), "insufficient_storage"),
        (PermissionError(13, "Permission denied"), "launch_failed"),
    ],
)
async def test_a_disk_that_refuses_ends_the_job_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception, code: str
) -> None:
    async def refuse(*_args: object) -> None:
        raise error

    monkeypatch.setattr(world.artifacts, "prepare", refuse)
    job = await world.accept()
    world.supervisor.begin(job)
    row = await world.ended(job)
    assert (row.status, row.error) == (JobStatus.FAILED, code)


async def test_a_log_that_cannot_be_completed_ends_the_job_with_a_warning(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(_job_id: str) -> None:
        raise OSError(28, "No space left on device")

    job = await world.running()
    monkeypatch.setattr(world.logs, "drain", refuse)
    world.runtime.exit(job.container_name, 0)
    row = await world.ended(job)
    assert row.status is JobStatus.COMPLETED
    assert "the log is incomplete: No space left on device" in row.warnings


async def test_a_store_that_is_away_for_a_moment_is_asked_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await world.running()
    real = world.store.advance
    calls = 0

    async def flaky(*args: Any, **keywords: Any) -> Job:
        nonlocal calls
        calls += 1
        moved = await real(*args, **keywords) if calls == 2 else None
        if calls <= 2:
            raise Unavailable("the answer was lost")
        assert moved is None
        return await real(*args, **keywords)

    monkeypatch.setattr(world.store, "advance", flaky)
    world.runtime.exit(job.container_name, 0)
    async with asyncio.timeout(30):
        while world.supervisor.has(job.id):
            await world.changes.wait(job.id, 0.02)
            world.clock.advance(1)
    assert (await world.ended(job)).status is JobStatus.COMPLETED
    assert await world.history(job) == ["pending", "starting", "running", "completed"]


async def test_recovery_finishes_a_recorded_cancellation(world: World) -> None:
    job = await world.running()
    await world.crash()
    await world.store.request_cancel(job.id, at=world.clock.now())
    await recovered(world)
    assert (await world.ended(job)).status is JobStatus.CANCELLED


async def test_recovery_removes_what_no_row_explains(world: World) -> None:
    job = await world.running()
    await world.crash()
    world.store = MemoryStore()
    world.boot()
    await recovered(world)
    assert world.runtime.removed == [job.container_name]


async def test_recovery_removes_the_container_of_an_ended_row(world: World) -> None:
    job = await starting(world, status="running")
    step = Step(why="test", at=world.clock.now())
    await world.store.advance(job.id, JobStatus.STARTING, Trigger.FAIL, step)
    await recovered(world)
    assert world.runtime.removed == [job.container_name]


async def test_recovery_waits_with_backoff_for_the_engine(world: World) -> None:
    job = await world.running()
    await world.crash()
    world.runtime.set_up(False)
    task = asyncio.create_task(world.recovery.run())
    await world.clock.until_sleeping()
    world.runtime.set_up(True)
    world.clock.advance(1)
    await world.clock.until_sleeping(2)  # the job's deadline, and the next recovery
    task.cancel()
    assert world.supervisor.has(job.id)
    assert world.runtime.removed == []


@pytest.mark.parametrize("error", [Unavailable("its layer is not known"), KeyError("layer")])
async def test_one_container_that_is_not_to_be_seen_keeps_no_other_job(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    jobs = [await world.running() for _ in range(3)]
    await world.crash()
    inspect = world.runtime.inspect

    async def fails(name_or_id: str) -> ContainerState | None:
        if name_or_id == jobs[1].container_name:
            raise error
        return await inspect(name_or_id)

    with monkeypatch.context() as patched:
        patched.setattr(world.runtime, "inspect", fails)
        with pytest.raises(type(error), match="layer"):  # so that it is tried again soon
            await world.recovery.run_once()
        assert [world.supervisor.has(job.id) for job in jobs] == [True, False, True]
    assert world.runtime.removed == []
    await world.recovery.run_once()
    assert world.supervisor.has(jobs[1].id)


async def test_what_the_process_before_asked_for_is_looked_for_soon(world: World) -> None:
    """An engine that stood still may make it though its job ended long ago."""
    job = await starting(world, status=None)
    step = Step(why="test", at=world.clock.now())
    await world.store.advance(job.id, JobStatus.STARTING, Trigger.FAIL, step)
    task = asyncio.create_task(world.recovery.run())
    await world.clock.until_sleeping()
    await world.runtime.create(spec_of(world, job))
    world.clock.advance(LATE_LOOK)
    await world.runtime.until(job.container_name, None)
    task.cancel()


async def test_a_container_without_a_row_has_a_minute_after_the_start(world: World) -> None:
    """``flashpods-admin validate`` makes such, often right after the API was restarted."""
    job = await world.accept()
    step = Step(why="test", at=world.clock.now())
    await world.store.advance(job.id, JobStatus.PENDING, Trigger.FAIL, step)
    task = asyncio.create_task(world.recovery.run())
    await world.clock.until_sleeping()
    stranger = replace(spec_of(world, job), job_id="f" * 16, name=container_name("f" * 16))
    await world.runtime.create(stranger)
    await world.runtime.create(spec_of(world, job))  # and what the engine did late
    world.clock.advance(LATE_LOOK)
    await world.runtime.until(job.container_name, None)
    await world.clock.until_sleeping()
    assert world.runtime.removed == [job.container_name]
    world.clock.advance(60)
    await world.runtime.until(stranger.name, None)
    task.cancel()


async def test_a_defect_of_recovery_holds_up_no_new_job(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken() -> list[ContainerState]:
        raise KeyError("Names")

    monkeypatch.setattr(world.runtime, "containers", broken)
    task = asyncio.create_task(world.recovery.run())
    await world.clock.until_sleeping()
    await world.running()
    task.cancel()


async def test_nothing_is_launched_before_the_first_recovery(world: World) -> None:
    """A create of the process before may be under way, and two at once may kill the engine."""
    world.runtime.set_up(False)
    task = asyncio.create_task(world.recovery.run())
    await world.clock.until_sleeping()  # it tries again after a while
    jobs = [await world.accept() for _ in range(2)]
    for job in jobs:
        world.supervisor.begin(job)
    await world.supervisor.cancel(jobs[1].id)  # needs no engine: nothing was asked of it
    assert (await world.until(jobs[1], JobStatus.CANCELLED)).started_at is None
    assert (await row_of(world, jobs[0])).status is JobStatus.PENDING
    world.runtime.set_up(True)
    world.clock.advance(2)
    await world.until(jobs[0], JobStatus.RUNNING)
    assert world.runtime.created == [jobs[0].container_name]
    task.cancel()


async def test_a_job_that_never_ran_leaves_nothing_though_its_removal_came_late(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await starting(world, status="initialized")
    await world.artifacts.prepare(job.id)
    await world.store.request_cancel(job.id, at=world.clock.now())
    remove, calls = world.runtime.remove, 0

    async def second_fails(name_or_id: str) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise Unavailable("it did not answer in time")
        await remove(name_or_id)

    monkeypatch.setattr(world.runtime, "remove", second_fails)
    await recovered(world)
    await world.supervisor.idle()
    assert world.supervisor.broke.is_set()
    await recovered(world)
    assert await world.artifacts.staged() == []
    assert await world.workspaces.claimed() == []


def full_disk(world: World, patch: pytest.MonkeyPatch) -> None:
    """Have the database's disk take nothing but ends."""

    async def refuse(*_: object) -> Job:
        raise InsufficientStorage("the disk of the database is full")

    patch.setattr(world.store, "note", refuse)


async def test_a_stop_goes_on_to_sigkill_though_nothing_can_be_noted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.runtime.default = Script(ignores_sigterm=True)
    job = await world.running()
    full_disk(world, monkeypatch)
    await world.supervisor.cancel(job.id)
    await world.clock.until_sleeping(2)  # beside the grace period the job's own deadline
    world.clock.advance(10)
    await world.runtime.until(job.container_name, None)
    assert (await world.until(job, JobStatus.CANCELLED)).exit_code == 137


async def test_a_log_that_cannot_be_followed_keeps_nobody_from_ending_the_job(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    follow = world.logs.follow

    async def refuse(job_id: str) -> None:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise OSError(28, "No space left on device")
        await follow(job_id)

    monkeypatch.setattr(world.logs, "follow", refuse)
    job = await world.running()
    for _ in range(2):
        await world.clock.until_sleeping(2)  # the job's deadline, and the next try
        world.clock.advance(2)
    async with asyncio.timeout(30):
        while calls < 3:
            await world.changes.wait(job.id, 0.01)
    calls = 0
    other = await world.running()
    await world.supervisor.cancel(other.id)
    assert (await world.until(other, JobStatus.CANCELLED)).exit_code == 143
    await world.supervisor.cancel(job.id)
    await world.ended(job)


async def test_a_leftover_that_stays_keeps_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tree that can't be deleted is the cleanup's; recovery has other things to do."""
    jobs = [await starting(world, status="running") for _ in range(2)]
    for job in jobs:
        step = Step(why="test", at=world.clock.now())
        await world.store.advance(job.id, JobStatus.STARTING, Trigger.FAIL, step)
    stays = min(job.id for job in jobs)
    discard = world.workspaces.discard

    async def fails(job_id: str) -> None:
        if job_id == stays:
            raise PermissionError(13, "Permission denied")
        await discard(job_id)

    monkeypatch.setattr(world.workspaces, "discard", fails)
    await recovered(world)
    assert await world.workspaces.claimed() == [stays]


async def test_a_line_that_breaks_is_begun_again_before_the_minute_is_over(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await world.until(await world.running(), JobStatus.RUNNING)
    advance, calls = world.store.advance, 0

    async def locked(*args: Any, **more: Any) -> Job:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("a defect of ours")
        return await advance(*args, **more)

    monkeypatch.setattr(world.store, "advance", locked)
    world.runtime.exit(job.container_name, 0)
    await world.supervisor.idle()
    await asyncio.wait_for(world.supervisor.broke.wait(), 5)
    await world.recovery.run_once()
    await world.supervisor.idle()
    assert (await row_of(world, job)).status is JobStatus.COMPLETED


async def test_a_line_that_is_cancelled_by_mistake_is_begun_again(world: World) -> None:
    job = await world.running()
    (task,) = (t for t in asyncio.all_tasks() if t.get_name() == f"job {job.id}")
    task.cancel()
    await asyncio.wait_for(world.supervisor.broke.wait(), 5)
    await world.recovery.run_once()
    assert world.supervisor.has(job.id)
    world.runtime.exit(job.container_name, 0)
    assert (await world.ended(job)).status is JobStatus.COMPLETED


# ------------------------------------------------------------------ disk


async def over_its_budget(world: World, job: Job) -> None:
    world.meter.uses[job.id] = DiskUse(where={1: 2**30 + 1}, entries=1)
    async with asyncio.timeout(30):
        while not world.disk.has(job.id):
            await world.changes.wait(job.id, 0.02)
    world.clock.advance(FIRST_SECONDS + 0.1)
    await world.disk.look()


async def test_a_job_over_its_disk_budget_is_killed_without_grace(world: World) -> None:
    world.runtime.default = Script(ignores_sigterm=True)
    neighbour = await world.running()
    job = await world.running()
    await over_its_budget(world, job)
    await world.runtime.until(job.container_name, None)
    row = await world.until(job, JobStatus.FAILED)
    assert (row.exit_code, row.error) == (137, "disk_limit_exceeded")
    assert world.runtime.emptied == [job.container_name]
    (warning,) = row.warnings
    assert "the limit is 1.00 GiB" in warning
    row = await world.until(neighbour, JobStatus.RUNNING)
    assert world.runtime.signals(neighbour.container_name) == []
    world.runtime.exit(neighbour.container_name, 0)
    assert (await world.ended(neighbour)).status is JobStatus.COMPLETED


async def test_a_job_that_filled_the_databases_disk_is_killed_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await world.running()
    full_disk(world, monkeypatch)
    await over_its_budget(world, job)
    await world.runtime.until(job.container_name, None)
    row = await world.until(job, JobStatus.FAILED)
    assert (row.exit_code, row.error) == (137, "disk_limit_exceeded")


def filled_by(job: Job, world: World, patch: pytest.MonkeyPatch) -> None:
    """Have nothing written before what the job wrote is gone: not why it ends, not its end."""
    for name in ("note", "advance"):
        write = getattr(world.store, name)

        async def full(*words: Any, write: Any = write, **more: Any) -> Any:
            if job.container_name not in world.runtime.emptied:
                raise InsufficientStorage("the disk of the database is full")
            return await write(*words, **more)

        patch.setattr(world.store, name, full)


async def test_a_full_disk_keeps_nobody_from_killing_who_filled_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await world.running()
    filled_by(job, world, monkeypatch)
    await over_its_budget(world, job)
    row = await world.until(job, JobStatus.FAILED)
    assert (row.exit_code, row.error) == (137, "disk_limit_exceeded")


async def test_who_fills_the_disk_and_ends_by_itself_makes_room_too(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await world.running()
    world.meter.fill = replace(world.meter.fill, bytes_used=world.meter.fill.bytes_total)
    filled_by(job, world, monkeypatch)
    world.runtime.exit(job.container_name, 3)
    row = await world.until(job, JobStatus.FAILED)
    assert (row.exit_code, row.error) == (3, None)


async def test_on_a_disk_with_room_nothing_is_emptied(world: World) -> None:
    job = await world.running()
    world.runtime.exit(job.container_name, 3)
    await world.until(job, JobStatus.FAILED)
    assert world.runtime.emptied == []


async def test_an_engine_without_room_to_note_a_death_gets_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await world.running()

    async def unnoticed(_container_id: str, _signal: str) -> None:
        """It is dead, and the engine says running."""

    async def room(name: str) -> None:
        world.runtime.exit(name, 137)

    monkeypatch.setattr(world.runtime, "kill", unnoticed)
    monkeypatch.setattr(world.runtime, "empty", room)
    await over_its_budget(world, job)
    async with asyncio.timeout(30):
        while (row := await world.store.get(job.id)) is not None and row.active:
            world.clock.advance(world.policy.grace)
            await world.changes.wait(job.id, 0.02)
    assert row is not None
    assert (row.exit_code, row.error) == (137, "disk_limit_exceeded")


async def test_why_it_was_killed_outlives_a_crash_right_after_the_kill(world: World) -> None:
    job = await world.running()
    await world.supervisor.close()
    noted = "disk_limit_exceeded: it holds 3.00 GiB on disk, the limit is 1.00 GiB"
    await world.store.note(job.id, Note(warnings=(noted,)))
    world.runtime.exit(job.container_name, 137)
    world.boot()
    await world.recovery.run_once()
    row = await world.ended(job)
    assert (row.exit_code, row.error) == (137, "disk_limit_exceeded")
    assert world.runtime.emptied == [job.container_name]


async def test_a_cancellation_wins_over_the_disk(world: World) -> None:
    job = await world.running()
    await world.supervisor.close()
    await world.store.request_cancel(job.id, at=world.clock.now())
    await world.store.note(job.id, Note(warnings=("disk_limit_exceeded: x",)))
    world.runtime.exit(job.container_name, 137)
    world.boot()
    await world.recovery.run_once()
    assert (await world.ended(job)).status is JobStatus.CANCELLED
