"""Experiments 3 to 7: the engine and its helpers die, stop, or lose a container."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from customer import LINES
from faultboard import FULL, RigFactory, Score, extent
from rig import Rig
from witness import new_key, soon

from flashpods_dev.service import twins

pytestmark = pytest.mark.timeout(900)  # a busy machine needs more than the usual two minutes

BOUND = 5.0  # seconds; what any answer of the API may take while the engine is away


async def timed(rig: Rig, path: str) -> int:
    """GET, within :data:`BOUND`; return the status."""
    begun = time.monotonic()
    answer = await rig.client.get(path, timeout=2 * rig.slack(BOUND))
    took = time.monotonic() - begun
    assert took < rig.slack(BOUND), f"GET {path} took {took:.1f} s"
    return answer.status_code


async def until_health(rig: Rig, status: int, seconds: float = 10) -> None:
    end = time.monotonic() + rig.slack(seconds)
    while await timed(rig, "/health") != status:
        assert time.monotonic() < end, f"health is not {status} after {seconds} s"
        await asyncio.sleep(0.1)


async def back_to_normal(rig: Rig, score: Score, since: float) -> None:
    took = await rig.recovered(since)
    score.judge(await rig.verdict(took), took, rig)


# ------------------------------------------------------------------ 3


async def at_create(rig: Rig, chance: random.Random) -> None:
    """Return somewhere within create, init and start of three containers."""
    jobs = [await rig.must(await rig.count(client_job_id=new_key())) for _ in range(3)]
    await soon(lambda: rig.see.reached("starting", *jobs), "starting")
    await asyncio.sleep(chance.uniform(0, 0.15))


async def at_start(rig: Rig, chance: random.Random) -> None:
    job_id = await rig.must(await rig.count(pause=0.01))  # it must be there to be seen
    name = f"job_{job_id}"
    await soon(
        lambda: name in rig.see.containers() or rig.see.reached("running", job_id), "container"
    )
    await asyncio.sleep(chance.uniform(0, 0.08))


async def at_wait(rig: Rig, _chance: random.Random) -> None:
    job_id = await rig.must(await rig.count(pause=0.02))
    await rig.until(job_id, "running")


@pytest.mark.parametrize(
    ("moment", "allowed"),
    [
        # A start that was cut short may have run the command; its exit status is lost with it.
        (at_create, {"exit_status_lost"}),
        (at_start, {"exit_status_lost"}),
        pytest.param(at_wait, set(), marks=pytest.mark.faults_full),
    ],
)
@pytest.mark.experiment(3, "SIGKILL of the Podman service")
@pytest.mark.timeout(1800)
async def test_sigkill_of_the_podman_service(
    rig: Rig,
    score: Score,
    moment: Callable[[Rig, random.Random], Awaitable[None]],
    allowed: set[str],
) -> None:
    """No command runs twice; a container that can't have run may be made once more."""
    rig.allowed, rig.anew = allowed, moment is not at_wait
    chance = random.Random(3)
    await rig.bystander()
    for _ in range(extent(20, 2, 1)):
        with score.trial(moment.__name__):
            async with rig.readers():
                await moment(rig, chance)
                await asyncio.to_thread(rig.stack.podman.kill)
                await asyncio.sleep(0.2)
                await asyncio.to_thread(rig.stack.podman.start)
                await back_to_normal(rig, score, time.monotonic())
    count_endings(rig, score, moment.__name__)
    await rig.dismiss()
    score.settle()


def count_endings(rig: Rig, score: Score, name: str) -> None:
    """Say on the board how many jobs a kill of the engine cost, and how many were made anew."""
    ((lost,),) = rig.see.rows("SELECT count(*) FROM jobs WHERE error = 'exit_status_lost'")
    ((all_of_them,),) = rig.see.rows("SELECT count(*) FROM jobs")
    # A kill costs the status of a job whose start was under way, not that of every job.
    assert not FULL or 3 * lost < all_of_them, f"{lost} of {all_of_them} lost their exit status"
    anew = sum(len(ids) > 1 for ids in rig.see.created.values())
    score.notes.append(
        f"{name}: {all_of_them} jobs, {lost} exit_status_lost, {anew} containers made anew"
    )


# ------------------------------------------------------------------ 4, 5


@pytest.mark.experiment(4, "Podman's socket gone for 60 s (less unless --full)")
async def test_podman_socket_gone(rig: Rig, score: Score) -> None:
    with score.trial():
        await rig.bystander()
        running = await rig.must(await rig.count(pause=0.05))
        await rig.until(running, "running")
        async with rig.readers():
            await asyncio.to_thread(rig.stack.podman.kill)
            rig.stack.layout.socket.unlink(missing_ok=True)
            end = time.monotonic() + extent(60, 5, 2)
            await until_health(rig, 503)
            waiting = await rig.must(await rig.count())
            while time.monotonic() < end:
                assert await timed(rig, f"/jobs/{waiting}") == 200
                await asyncio.sleep(0.2)
            await asyncio.to_thread(rig.stack.podman.start)
            begun = time.monotonic()
            await until_health(rig, 200)
            assert (await rig.ended(waiting))["status"] == "completed"
            await back_to_normal(rig, score, begun)
        await rig.dismiss()
    score.settle()


@pytest.mark.experiment(5, "Podman stopped with SIGSTOP, every call bounded")
async def test_podman_stopped(rig_of: RigFactory, score: Score) -> None:
    """What was asked of it while it was stopped it does when it goes on, with what is asked then.

    So it may make a container for a create that nobody waits for, in the middle of a removal.
    """
    rig = await rig_of({"podman": {"call_seconds": 4}})
    rig.anew = True
    with score.trial():
        await rig.bystander()
        running = await rig.must(await rig.count(pause=0.1))
        await rig.until(running, "running")
        pids = [rig.stack.podman.pid, *twins(rig.stack.podman.pid)]
        async with rig.readers():
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            try:
                await until_health(rig, 503)
                end = time.monotonic() + extent(60, 8, 6)
                waiting = await rig.must(await rig.count())
                doomed = await rig.must(await rig.post("sleep 600"))
                answer = await rig.client.delete(f"/jobs/{doomed}", timeout=rig.slack(BOUND))
                assert answer.status_code == 200
                while time.monotonic() < end:
                    assert await timed(rig, f"/jobs/{waiting}") == 200
                    await asyncio.sleep(0.2)
            finally:
                for pid in pids:
                    os.kill(pid, signal.SIGCONT)
            begun = time.monotonic()
            assert (await rig.ended(waiting))["status"] == "completed"
            assert (await rig.ended(running))["status"] == "completed"
            assert (await rig.ended(doomed))["status"] == "cancelled"
            await back_to_normal(rig, score, begun)
        await rig.dismiss()
    score.settle()


# ------------------------------------------------------------------ 6, 7


def conmon_of(container: str) -> int:
    """Return the pid of the container's conmon."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"conmon") and container.encode() in words:
            return int(path.parent.name)
    raise AssertionError(f"no conmon of {container}")


@pytest.mark.experiment(6, "SIGKILL of conmon")
async def test_sigkill_of_conmon(rig: Rig, score: Score) -> None:
    """Its job ends, as failed, soon; its siblings don't notice.

    Podman has crun forget a container only with conmon's help, so crun's record of it, 20 kB in the
    engine's volatile directory, stays until the next boot; no process, mount or cgroup does.
    """
    await rig.bystander()
    for number in range(extent(10, 2, 1)):
        with score.trial(f"number {number}, the API {'dead' if number % 2 else 'alive'}"):
            job_id = await rig.must(await rig.post("while :; do echo x; sleep 0.1; done"))
            await rig.until(job_id, "running")
            if number % 2:
                await asyncio.to_thread(rig.stack.api.kill)
            rig.excused |= {job_id}
            async with rig.readers():
                begun = time.monotonic()
                container = rig.see.containers()[f"job_{job_id}"]
                rig.see.forgiven.add(container)
                os.kill(conmon_of(container), signal.SIGKILL)
                if number % 2:
                    await rig.start()
                row = await rig.ended(job_id)
                assert row["status"] == "failed", row
                await back_to_normal(rig, score, begun)
    await rig.dismiss()
    score.settle()


@pytest.mark.experiment(7, "podman rm -f from outside")
async def test_removal_from_outside(rig: Rig, score: Score) -> None:
    await rig.bystander()
    for _ in range(extent(10, 2, 1)):
        with score.trial():
            job_id = await rig.must(await rig.count(LINES, 0.5))
            await rig.until(job_id, "running")
            rig.excused |= {job_id}
            async with rig.readers():
                begun = time.monotonic()
                done = await asyncio.to_thread(
                    rig.stack.run_podman, "rm", "-f", "-t", "0", f"job_{job_id}"
                )
                assert done.returncode == 0, done.stderr
                row = await rig.ended(job_id)
                assert row["status"] == "failed"
                assert row["error"] == "container_lost_on_recovery" or row["exit_code"] == 137, row
                await back_to_normal(rig, score, begun)
    await rig.dismiss()
    score.settle()
