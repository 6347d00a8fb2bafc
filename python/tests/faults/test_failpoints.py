"""Experiments 1 and 2: SIGKILL at every named place on a job's way, with other jobs in flight."""

from __future__ import annotations

import asyncio
import os
import random
import re
import secrets
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from customer import LINES
from faultboard import ALL, FULL, RigFactory, Score
from rig import NOT_FOUND, Rig
from witness import new_key

import flashpods
from flashpods import failpoints
from flashpods.failpoints import PLACES, VARIABLE
from flashpods.jobs.cleanup import BATCH
from flashpods_dev.layout import dump, merge, write_for_user

TRIES = 20 if FULL else 1
CHOSEN = os.environ.get("FLASHPODS_FAULTS_PLACE", "").split(",")
LIVES = 20  # kills that a bystander sees: its whole log must fit into one answer
STACKS = 2 if FULL else 1  # at once, once the other half of the run is over
ALONE = Path(os.environ.get("FLASHPODS_FAULTS_ALONE", ""))
# ./dev test: one place of each kind of act. ./dev faults: all once. --full: all 20 times.
QUICK = (
    "submit.after_commit",
    "engine.before_init",
    "launch.after_start",
    "consume.after",
    "capture.after_append",
    "monitor.before_sigkill",
    "artifacts.after_rename",
    "collect.after_end",
    "finalize.after_move",
    "cleanup.after_cleaning",
)

# ------------------------------------------------------------------ the mechanism itself


def test_every_place_is_placed_once() -> None:
    source = Path(flashpods.__file__).parent
    found = [
        name
        for file in source.rglob("*.py")
        for name in re.findall(r'failpoints\.hit\(\s*"([^"]*)"', file.read_text())
    ]
    assert sorted(found) == sorted(PLACES)
    assert len(set(PLACES)) == len(PLACES)


@pytest.mark.parametrize("text", ["nowhere", "submit.after_commit:0", "submit.after_commit:x"])
def test_a_wrong_failpoint_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=VARIABLE):
        failpoints.parse(text)


def test_it_kills_at_the_nth_hit_and_not_elsewhere() -> None:
    code = (
        "from flashpods.failpoints import hit\n"
        "hit('submit.after_commit'); hit('cancel.after_commit'); print('one', flush=True)\n"
        "hit('submit.after_commit'); print('two')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={VARIABLE: "submit.after_commit:2"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (-9, "one\n")
    assert not failpoints.ARMED


def test_a_file_arms_it_while_it_runs(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys\nfrom flashpods.failpoints import hit\n"
        "file = pathlib.Path(sys.argv[1])\n"
        "hit('submit.after_commit'); print('one', flush=True)\n"
        "file.write_text('submit.after_commit:2')\n"
        "hit('submit.after_commit'); print('two', flush=True)\n"
        "file.unlink(); hit('submit.after_commit'); print('three', flush=True)\n"
        "file.write_text('submit.after_commit'); hit('submit.after_begin')\n"
        "print('four', flush=True); hit('submit.after_commit'); print('five')"
    )
    file = tmp_path / "place"
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)],
        env={VARIABLE: f"@{file}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (-9, "one\ntwo\nthree\nfour\n"), done.stderr


# ------------------------------------------------------------------ what leads to each place

TRAPPING = "trap '' TERM; echo trapped; i=0; while [ $i -lt 600 ]; do i=$((i+1)); sleep 0.1; done"
NO_IMAGE = "localhost/none/none:1"
SHORT_LIVES = {
    "uploads": {"finalize_within_seconds": 0.001},
    "cleanup": {"orphan_grace_seconds": 0.001},
    "output": {"artifact_retention_seconds": 0.001},
}
LOGS_TOO: dict[str, Any] = {"output": {"log_retention_seconds": 0.001}}
# How often a place may be passed before the kill: by other jobs, or by earlier blocks of output.
PASSES = {"capture.before_append": 30, "capture.after_append": 30, "capture.after_checkpoint": 1}


async def whole_way(rig: Rig) -> None:
    """Reserve, push, finalize, post, and let the job run through."""
    upload_id = await rig.upload()
    if upload_id is not None:
        await rig.count(files_id=upload_id, client_job_id=new_key())


async def writing(rig: Rig) -> None:
    await rig.count(100, 0.01)


async def written(rig: Rig, job_id: str, text: str) -> None:
    """Wait for text in a job's log."""
    end = time.monotonic() + 120
    while True:
        answer = await rig.ask("GET", f"/jobs/{job_id}/output")
        if answer is not None and answer.status_code == 200 and text in answer.text:
            return
        assert time.monotonic() < end, f"no {text!r} in the log of {job_id}"
        await asyncio.sleep(0.02)


async def cancelling(rig: Rig) -> None:
    job_id = await rig.post(TRAPPING)
    if job_id is not None:
        await rig.until(job_id, "running")
        await written(rig, job_id, "trapped")  # before that SIGTERM would end it
        await rig.cancel(job_id)


async def ending_early(rig: Rig) -> None:
    """A job with an upload whose image can't be had."""
    upload_id = await rig.upload()
    if upload_id is not None:
        await rig.post("true", image=NO_IMAGE, files_id=upload_id)


async def discarding(rig: Rig) -> None:
    upload_id = await rig.upload()
    if upload_id is not None:
        await rig.ask("DELETE", f"/uploads/{upload_id}")


async def copying(rig: Rig) -> None:
    upload_id = await rig.upload()
    if upload_id is not None:
        await rig.ask("POST", f"/uploads/{upload_id}/copy")


STIMULI: dict[str, Callable[[Rig], Coroutine[Any, Any, None]]] = {
    "cancel": cancelling,
    "early": ending_early,
    "tidy.after_delete": ending_early,
    "discard": discarding,
    "copy": copying,
    "capture.before_append": writing,
    "capture.after_append": writing,
    "capture.after_checkpoint": writing,
    **{
        f"monitor.{when}_{signal}": cancelling
        for when in ("before", "after")
        for signal in ("sigterm", "sigkill")
    },
}


async def kill_api_at(rig: Rig, place: str, nth: int, *, first: bool) -> tuple[float, int]:
    """Have the API killed there with jobs in flight, start it again.

    ``first``: two more jobs are on their way instead of one, and it is started as a whole; the
    other starts spare themselves the imports.

    Returns:
        How long the recovery took, and how many jobs were active when it died.
    """
    kind = place.split(".", maxsplit=1)[0]
    stimulus = STIMULI.get(place) or STIMULI.get(kind) or whole_way
    rig.arm(f"{place}:{nth}")
    tasks = [asyncio.create_task(stimulus(rig)) for _ in range(2 if first else 1)]
    try:
        dead = await rig.died()
    finally:
        rig.disarm()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert dead, f"{place}:{nth} was not reached"
    active = "SELECT count(*) FROM jobs WHERE status IN ('pending', 'starting', 'running')"
    ((in_flight,),) = rig.see.rows(active)
    begun = time.monotonic()
    await rig.start(fork=not first)
    await go_on(rig)
    took = await rig.recovered(begun)
    await rig.post_again()
    await rig.push_again()
    await rig.recovered(begun)
    return took, in_flight


async def go_on(rig: Rig) -> None:
    """Ask again for what may not have been answered; excuse what can't succeed."""
    trapping = "SELECT id FROM jobs WHERE command = ? AND completed_at IS NULL"
    for (job_id,) in rig.see.rows(trapping, TRAPPING):
        if job_id not in rig.cancels:  # what was acknowledged needs no second word
            await rig.cancel(job_id)
    rig.excused |= {i for (i,) in rig.see.rows("SELECT id FROM jobs WHERE image = ?", NO_IMAGE)}


# ------------------------------------------------------------------ the reaper


async def kill_reaper_at(rig: Rig, place: str, *, fork: bool) -> tuple[float, int]:
    """Have the reaper killed there, let another one do its work; as :func:`kill_api_at`."""
    if uncleaned(rig):  # what the places before this one left is not this kill's to recover from
        await clean(rig, LOGS_TOO, fork=fork)
    job_id = await rig.must(await rig.count())
    await rig.ended(job_id)
    rig.plant(f"upload_{job_id}orphan")
    if place == "cleanup.after_container":
        stray = secrets.token_hex(8)
        name = f"job_{stray}"
        labels = {"flashpods-job": "true", "flashpods-job-id": stray}
        flags = [f"--label={key}={value}" for key, value in labels.items()]
        made = await asyncio.to_thread(
            rig.stack.run_podman, "create", "--name", name, *flags, rig.stack.info.image, "true"
        )
        assert made.returncode == 0, made.stderr
    more = LOGS_TOO
    if place.startswith("cleanup.after_log"):
        more = {"output": {"logs_total_bytes": 1, "log_bytes": 1}}
    rig.arm(place)
    code, text = await reap(rig, more, fork=fork)
    rig.disarm()
    assert code in (-9, 137), f"{place} was not reached: {code} {text}"
    begun = time.monotonic()
    await clean(rig, more, fork=fork)
    return await rig.recovered(begun), len(rig.running)


def uncleaned(rig: Rig) -> int:
    """Return how many jobs have ended and are not cleaned."""
    sql = "SELECT count(*) FROM jobs WHERE completed_at IS NOT NULL AND status <> 'cleaned'"
    ((count,),) = rig.see.rows(sql)
    return int(count)


async def clean(rig: Rig, more: dict[str, Any], *, fork: bool) -> None:
    """Let the reaper do as many rounds as clean every ended job: each takes a batch at most."""
    for _ in range(1 + uncleaned(rig) // BATCH):
        code, text = await reap(rig, more, fork=fork)
        assert code == 0, f"a round of the reaper failed: {code} {text}"
    if "logs_total_bytes" not in more["output"]:
        left = uncleaned(rig)
        assert left == 0, f"{left} ended jobs are not cleaned"


async def reap(rig: Rig, more: dict[str, Any], *, fork: bool) -> tuple[int, str]:
    path = rig.stack.layout.root / "cleanup.json"
    write_for_user(path, dump(merge(merge(rig.stack.settings, SHORT_LIVES), more)))
    arguments = ("--config", str(path), "--once")
    if fork:
        return await asyncio.to_thread(rig.stack.fork_cleanup, *arguments, env=rig.armed)
    done = await asyncio.to_thread(
        rig.stack.run_python, "flashpods.cleanup_main", *arguments, env=rig.armed
    )
    return done.returncode, done.stderr[-500:]


# ------------------------------------------------------------------ the experiments


async def visit(rig: Rig, place: str, score: Score) -> bool:
    """Kill at one place until it has had its tries; return whether the rig is still whole."""
    found = {"tries": 0, "passed": 0, "recovery_seconds": 0.0, "fewest_in_flight": 99}
    mine = score.detail.setdefault(place, found)
    chance = random.Random(place)
    if FULL:
        rig.reads.clear()  # the p99 is that of this place alone
    for number in range(mine["tries"] + 1, TRIES + 1):
        with score.trial(place) as trial:
            mine["tries"] += 1
            while len(rig.running) < 2:
                await rig.bystander()
            async with rig.readers(1):
                if place.startswith("cleanup."):
                    took, in_flight = await kill_reaper_at(rig, place, fork=number > 1 or not ALL)
                else:
                    first = number == 1 and (ALL or place == QUICK[0])
                    nth = chance.randint(1, PASSES.get(place, 2 if first else 1))
                    took, in_flight = await kill_api_at(rig, place, nth, first=first)
            mine["recovery_seconds"] = max(mine["recovery_seconds"], round(took, 3))
            mine["fewest_in_flight"] = min(mine["fewest_in_flight"], in_flight)
            assert in_flight, "no job was in flight"
            score.judge(await rig.verdict(took, again=False), took, rig)
            rig.kills += 1
            if rig.kills % LIVES == 0:
                await part(rig, score)
        if not trial.passed:
            return False
        mine["passed"] += 1
    return True


async def part(rig: Rig, score: Score) -> None:
    """Let the bystanders end, and read all logs once more, theirs too."""
    await rig.dismiss()
    await rig.recovered(time.monotonic())
    score.judge(await rig.verdict())


@pytest.mark.experiment(1, "SIGKILL at the named failpoints")
@pytest.mark.timeout(6 * 3600)
async def test_sigkill_at_every_failpoint(rig_of: RigFactory, score: Score) -> None:
    places = PLACES if ALL else QUICK
    left = deque(place for place in places if any(name in place for name in CHOSEN))

    async def walk(number: int) -> None:
        while number and left and not ALONE.exists():  # noqa: ASYNC110, ASYNC240 - a file
            await asyncio.sleep(1)
        rig = None
        while left:
            place = left.popleft()
            if rig is None:
                rig = await rig_of()
                rig.allowed = {NOT_FOUND}
            if not await visit(rig, place, score):
                print(f"{place}: {rig.stack.api.tail(40)}", file=sys.stderr)  # noqa: T201 - why
                await asyncio.to_thread(rig.stack.stop)  # what is broken must not break the next
                rig = None
                if score.detail[place]["tries"] < TRIES:
                    left.append(place)
        if rig is not None:
            await part(rig, score)

    await asyncio.gather(*(walk(number) for number in range(STACKS)))
    score.settle()


@pytest.mark.experiment(2, "SIGKILL between container create and commit, 6 jobs")
@pytest.mark.timeout(3600)
async def test_sigkill_between_create_and_commit(rig: Rig, score: Score) -> None:
    """The N-th container of six is there, its row does not say so yet; the others are anywhere."""
    rig.allowed = {NOT_FOUND}
    places = ("engine.before_init", "launch.after_create", "launch.after_start")
    # --full: each of the six four times, so that each place is met 24 times.
    for nth in 4 * (1, 2, 3, 4, 5, 6) if FULL else (1, 4) if ALL else (4,):
        for place in places if ALL else places[1:2]:
            with score.trial(f"{place}:{nth}"):
                async with rig.readers():
                    rig.arm(f"{place}:{nth}")
                    await asyncio.gather(
                        *(rig.count(LINES, 0.005, client_job_id=new_key()) for _ in range(6))
                    )
                    assert await rig.died(), "not reached"
                    rig.disarm()
                    begun = time.monotonic()
                    await rig.start()
                    took = await rig.recovered(begun)
                await rig.post_again()
                await rig.recovered(begun)
                score.judge(await rig.verdict(took, again=False), took, rig)
    score.judge(await rig.verdict())
    score.settle()
