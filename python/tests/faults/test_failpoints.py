"""Experiments 1 and 2: SIGKILL at every named place on a job's way, with other jobs in flight."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from rig import LINES, Rig, new_key

import flashpods
from conftest import ALL, FULL, RigFactory, Score
from flashpods import failpoints
from flashpods.failpoints import PLACES, VARIABLE
from flashpods_dev.layout import dump, merge, write_for_user
from flashpods_dev.machine import StackError

TRIES = 20 if FULL else 1
# ./dev test: one place of each kind of act. ./dev faults: all once. --full: all 20 times.
QUICK = (
    "submit.after_commit",
    "launch.after_create",
    "consume.after",
    "monitor.before_sigkill",
    "collect.after_artifacts",
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
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stdout) == (-9, "one\n")
    assert not failpoints.ARMED


# ------------------------------------------------------------------ what leads to each place

TRAPPING = "trap '' TERM; i=0; while [ $i -lt 600 ]; do i=$((i+1)); sleep 0.1; done"
SHORT_LIVES = {
    "uploads": {"finalize_within_seconds": 0.001},
    "cleanup": {"orphan_grace_seconds": 0.001},
    "output": {"artifact_retention_seconds": 0.001},
}


async def whole_way(rig: Rig) -> None:
    """Reserve, push, finalize, post, and let the job run through."""
    upload_id = await rig.upload()
    if upload_id is not None:
        await rig.count(files_id=upload_id, client_job_id=new_key())


async def cancelling(rig: Rig) -> None:
    job_id = await rig.must(await rig.post(TRAPPING))
    await rig.until(job_id, "running")
    await rig.ask("DELETE", f"/jobs/{job_id}")
    rig.cancelled.add(job_id)


async def ending_early(rig: Rig) -> None:
    """A job whose image can't be had."""
    job_id = await rig.must(await rig.post("true", image="localhost/none/none:1"))
    rig.excused |= {job_id}


async def discarding(rig: Rig) -> None:
    upload_id = await rig.upload()
    assert upload_id is not None
    rig.uploads.discard(upload_id)
    await rig.ask("DELETE", f"/uploads/{upload_id}")


STIMULI: dict[str, Callable[[Rig], Awaitable[None]]] = {
    "cancel": cancelling,
    "early": ending_early,
    "discard": discarding,
}


async def stimulate(rig: Rig, place: str) -> None:
    kind = place.split(".", maxsplit=1)[0]
    if kind == "monitor" and "sig" in place:
        await cancelling(rig)
    else:
        await STIMULI.get(kind, whole_way)(rig)


async def kill_api_at(rig: Rig, place: str) -> float:
    """Have the API killed there with jobs in flight, start it again, return how long it took."""
    try:
        await rig.restart(env={VARIABLE: place})
    except StackError:
        pass  # it came there already as it took up the jobs in flight
    else:
        await stimulate(rig, place)
    assert await rig.died(), f"{place} was not reached"
    begun = time.monotonic()
    await rig.start()
    for job_id in rig.cancelled:  # the client asks again
        answer = await rig.client.delete(f"/jobs/{job_id}")
        assert answer.status_code in (200, 409), answer.text
    rig.cancelled.clear()
    took = await rig.recovered(begun)
    if place.startswith("finalize."):  # the client asks again
        (upload_id,) = rig.uploads - {
            u for u, s in rig.rows("SELECT id, state FROM uploads") if s != "uploading"
        } or {""}
        if upload_id:
            answer = await rig.client.post(f"/uploads/{upload_id}/finalize")
            assert answer.status_code == 200, answer.text
    return took


async def kill_reaper_at(rig: Rig, place: str) -> float:
    """Have the reaper killed there, let another one do its work, return how long that took."""
    job_id = await rig.must(await rig.count())
    await rig.ended(job_id)
    rig.plant(f"upload_{job_id}orphan")
    if place == "cleanup.after_container":
        name = "job_" + "f" * 16
        labels = {"flashpods-job": "true", "flashpods-job-id": "f" * 16}
        flags = [f"--label={key}={value}" for key, value in labels.items()]
        made = await asyncio.to_thread(
            rig.stack.run_podman, "create", "--name", name, *flags, rig.stack.info.image, "true"
        )
        assert made.returncode == 0, made.stderr
    more: dict[str, Any] = {"output": {"log_retention_seconds": 0.001}}
    if place.startswith("cleanup.after_log"):
        more = {"output": {"logs_total_bytes": 1, "log_bytes": 1}}
    code, text = await reap(rig, more, {VARIABLE: place})
    assert code in (-9, 137), f"{place} was not reached: {code} {text}"
    begun = time.monotonic()
    code, text = await reap(rig, more, {})
    assert code == 0, f"the second round failed: {code} {text}"
    if "logs_total_bytes" not in more["output"]:
        rows = rig.rows("SELECT count(*) FROM jobs WHERE status = 'cleaned'")
        assert rows[0][0] >= 1
        await rig.until(job_id, "cleaned")
    return await rig.recovered(begun)


async def reap(rig: Rig, more: dict[str, Any], env: dict[str, str]) -> tuple[int, str]:
    path = rig.stack.layout.root / "cleanup.json"
    write_for_user(path, dump(merge(merge(rig.stack.settings, SHORT_LIVES), more)))
    done = await asyncio.to_thread(
        rig.stack.run_python, "flashpods.cleanup_main", "--config", str(path), "--once", env=env
    )
    return done.returncode, done.stderr[-500:]


@pytest.mark.experiment(1, "SIGKILL at the named failpoints")
@pytest.mark.timeout(6 * 3600)
async def test_sigkill_at_every_failpoint(rig_of: RigFactory, score: Score) -> None:
    rig = await rig_of()
    for place in PLACES if ALL else QUICK:
        mine = score.detail[place] = {"tries": 0, "passed": 0, "recovery_seconds": 0.0}
        kill = kill_reaper_at if place.startswith("cleanup.") else kill_api_at
        for _ in range(TRIES):
            mine["tries"] += 1
            passed = score.passed
            with score.trial(place):
                if not rig.running:
                    await rig.bystander()
                rig.reads.clear()
                async with rig.readers(1):
                    took = await kill(rig, place)
                mine["recovery_seconds"] = max(mine["recovery_seconds"], round(took, 3))
                score.judge(await rig.verdict(took), took, rig)
            mine["passed"] += score.passed - passed
            if score.passed == passed:  # what is broken must not break the next
                rig = await rig_of()
        if rig.running:
            await rig.dismiss()
    score.settle()


@pytest.mark.faults_full
@pytest.mark.experiment(2, "SIGKILL between container create and commit, 6 jobs")
@pytest.mark.timeout(3600)
async def test_sigkill_between_create_and_commit(rig: Rig, score: Score) -> None:
    """The N-th container of six is there, its row does not say so yet; the others are anywhere."""
    for nth in range(1, 7) if FULL else (1, 4):
        for place in ("launch.after_create", "launch.after_start"):
            with score.trial(f"{place}:{nth}"):
                await rig.restart(env={VARIABLE: f"{place}:{nth}"})
                await asyncio.gather(*(rig.count(LINES, 0.005) for _ in range(6)))
                assert await rig.died(), "not reached"
                begun = time.monotonic()
                await rig.start()
                took = await rig.recovered(begun)
                score.judge(await rig.verdict(took), took, rig)
    score.settle()
