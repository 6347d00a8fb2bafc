"""A job's line from end to end: what its container is, and how it ends by itself."""

from __future__ import annotations

import pytest
from line_world import World

from flashpods.jobs.line import Policy
from flashpods.jobs.model import (
    FinalTree,
    JobType,
    Phase,
    UploadState,
)
from flashpods.jobs.states import JobStatus
from flashpods.ports import ContainerSpec, Limits
from flashpods.testing.runtime import Script


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
