"""What the laptop sees while the host restarts, refuses and disappears: always the truth, once."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import support
from command_line import Laptop, finish
from laptop_work import LINES, MEGABYTES, SMALL, blob, detached, rows, tree
from proxy import Proxy, refusal

from flashpods_dev.stack import MiniStack

COUNTING = f"i=0; while [ $i -lt {LINES} ]; do i=$((i+1)); echo line $i; sleep 0.02; done; exit 7"
COUNTED = "".join(f"line {i}\n" for i in range(1, LINES + 1))


async def restart(stack: MiniStack) -> None:
    """Kill the API as a power cut would, and start it again."""
    await asyncio.to_thread(stack.api.kill)
    await asyncio.to_thread(stack.api.start)


def parts(directory: Path) -> list[str]:
    return [n for _, _, names in os.walk(directory) for n in names if n.endswith(".part")]


# ------------------------------------------------------------------ a host that restarts


async def test_follow_through_restarts(laptop: Laptop, stack: MiniStack) -> None:
    job = await detached(laptop, COUNTING)
    attached = await laptop.start("attach", "--no-timestamps", job)
    assert attached.stdout is not None
    text = ""
    for line in (20, 120, 240):
        async with asyncio.timeout(120):
            while f"line {line}\n" not in text:
                text += (await attached.stdout.readline()).decode()
        await restart(stack)
    done = await finish(attached)
    assert text + done.out == COUNTED
    assert done.code == 7


async def test_wait_through_restarts(laptop: Laptop, stack: MiniStack, proxy: Proxy) -> None:
    job = await detached(laptop, "trap 'exit 5' TERM; sleep 600 & wait")
    waiting = asyncio.create_task(laptop.json("wait", "wait", job, code=5))
    for _ in range(2):
        proxy.first_lines.clear()
        await support.true_soon(
            lambda: any("wait=" in line for line in proxy.first_lines), "it waits", seconds=120
        )
        await restart(stack)
    assert (await laptop.run("kill", job)).code == 0
    answer = await waiting
    assert [(row["id"], row["exit_code"]) for row in answer["jobs"]] == [(job, 5)]


async def test_download_through_restarts_and_cuts(
    laptop: Laptop, stack: MiniStack, proxy: Proxy, tmp_path: Path
) -> None:
    job, digest = await blob(laptop)
    proxy.bytes_per_second = 20_000_000
    downloading = await laptop.start("download", job, "blob", "--to", "got/")

    def came(share: float) -> bool:
        return proxy.to_laptop > share * MEGABYTES * 1e6

    for share in (0.2, 0.5, 0.8):
        await support.true_soon(partial(came, share), "some came", seconds=120)
        assert not (tmp_path / "got/blob").exists()
        if share == 0.5:
            await restart(stack)
        else:
            proxy.cut()
    done = await finish(downloading)
    assert done.code == 0, done
    with (tmp_path / "got/blob").open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == digest
    assert proxy.to_laptop < 1.6 * MEGABYTES * 1e6  # it went on where it was
    assert parts(tmp_path) == []


async def test_a_client_that_is_killed_leaves_no_half_file_under_its_name(
    laptop: Laptop, proxy: Proxy, tmp_path: Path
) -> None:
    job, _ = await blob(laptop)
    (tmp_path / "blob").write_text("the former one")
    proxy.bytes_per_second = 10_000_000
    before = proxy.to_laptop
    downloading = await laptop.start("download", job, "blob")
    await support.true_soon(
        lambda: proxy.to_laptop - before > 0.3 * MEGABYTES * 1e6, "some came", seconds=120
    )
    downloading.kill()
    await downloading.communicate()
    assert (tmp_path / "blob").read_text() == "the former one"


# ------------------------------------------------------------------ a host that refuses


@pytest.mark.parametrize(
    ("status", "code"), [(429, "rate_limited"), (503, "service_unavailable"), (502, "http_502")]
)
async def test_storms(
    laptop: Laptop, stack: MiniStack, proxy: Proxy, status: int, code: str
) -> None:
    headers = ("Retry-After: 1",) if status == 429 else ()
    storm = 2 if status == 502 else 4
    seen: Counter[bytes] = Counter()

    def plan(first: bytes) -> bytes | None:
        call = first.split(b"\r\n", 1)[0].split(b"?")[0]
        seen[call] += 1
        return refusal(status, code, *headers) if seen[call] <= storm else None

    proxy.plan = plan
    before = rows(stack, "SELECT count(*) FROM jobs")
    done = await laptop.run("run", "--no-files", "--no-timestamps", *SMALL, "echo through; exit 3")
    assert (done.code, done.out) == (3, "through\n"), done
    assert f"({code})" in done.err
    (count,) = before[0]
    assert rows(stack, "SELECT count(*) FROM jobs") == [(count + 1,)]
    posts = [line for line in proxy.first_lines if line.startswith("POST /jobs")]
    assert len(posts) == storm + 1


async def test_a_storm_without_end_is_told_and_makes_no_job(
    laptop: Laptop, stack: MiniStack, proxy: Proxy
) -> None:
    proxy.plan = lambda first: refusal(503, "service_unavailable")
    before = rows(stack, "SELECT count(*) FROM jobs")
    done = await laptop.run("run", "--no-files", *SMALL, "true")
    assert done.code == 125
    assert done.err.splitlines()[-1] == "error: a storm (service_unavailable)"
    assert len(proxy.first_lines) == 6
    assert rows(stack, "SELECT count(*) FROM jobs") == before


async def test_lost_answers_double_no_job(laptop: Laptop, stack: MiniStack, proxy: Proxy) -> None:
    lost = Counter[bytes]()

    def plan(first: bytes) -> str | None:
        call = first.split(b" HTTP")[0].split(b"?")[0]
        lost[call] += 1
        return "lose" if lost[call] <= 2 and first.startswith((b"POST", b"DELETE")) else None

    proxy.plan = plan
    (count,) = rows(stack, "SELECT count(*) FROM jobs")[0]
    job = await detached(laptop, "sleep 600")
    assert lost[b"POST /jobs"] == 3
    assert rows(stack, "SELECT count(*) FROM jobs") == [(count + 1,)]
    killed = await laptop.json("kill", "kill", job)  # its first two answers are lost as well
    assert killed["job_id"] == job
    assert (await laptop.run("wait", job)).code in {137, 143}


async def test_a_real_rate_limit_is_waited_for(
    machine: Any, tmp_path: Path, laptop: Laptop
) -> None:
    """Ten commands at once against five requests a second."""
    with support.stack_of(machine, {"http": {"rate_per_second": 5, "rate_burst": 2}}) as limited:
        home = tmp_path / "limited"
        limited_laptop = Laptop.of(limited, home, retry_base_delay_ms=1000)
        answers = await asyncio.gather(
            *(limited_laptop.run("capacity", "--json", seconds=200) for _ in range(10))
        )
    assert [answer.code for answer in answers] == [0] * 10, answers
    assert any("(rate_limited); trying again" in answer.err for answer in answers)


async def test_a_host_that_is_away(laptop: Laptop, proxy: Proxy, stack: MiniStack) -> None:
    proxy.down = True
    done = await laptop.run("ps")
    assert done.code == 3
    assert "(host_unreachable)" in done.err
    # A watcher goes on, and sees the host when it is back.
    watching = await laptop.start("ps", "--watch", "--all", "--json", "--interval", "0.2")
    assert watching.stderr is not None
    assert watching.stdout is not None
    async with asyncio.timeout(120):
        while b"going on" not in await watching.stderr.readline():
            pass
        proxy.down = False
        assert "jobs" in json.loads(await watching.stdout.readline())
    watching.kill()
    await watching.communicate()


# ------------------------------------------------------------------ a push that is cut


async def test_a_push_that_is_cut_goes_on(
    laptop: Laptop, stack: MiniStack, rsync_proxy: Proxy, tmp_path: Path
) -> None:
    digests = tree(tmp_path / "tree")
    cuts = [3_000_000, 4_000_000]
    rsync_proxy.plan = lambda first: cuts.pop(0) if first.startswith(b"@RSYNCD") and cuts else None
    (count,) = rows(stack, "SELECT count(*) FROM uploads")[0]
    done = await laptop.run(
        *("run", "--no-timestamps", *SMALL, "--", "sha256sum *"), cwd=tmp_path / "tree"
    )
    assert done.code == 0, done
    assert done.err.count("trying again") >= 2
    assert cuts == []
    assert {line[66:]: line[:64] for line in done.out.splitlines()} == digests
    assert rows(stack, "SELECT count(*) FROM uploads") == [(count + 1,)]
    assert rsync_proxy.to_host < 1.5 * 60 * 200_000  # what had arrived was not sent again


async def test_a_push_that_is_always_cut_makes_no_job(
    laptop: Laptop, stack: MiniStack, rsync_proxy: Proxy, tmp_path: Path
) -> None:
    tree(tmp_path / "tree")
    rsync_proxy.plan = lambda first: 500_000 if first.startswith(b"@RSYNCD") else None
    before = rows(stack, "SELECT count(*) FROM jobs")
    done = await laptop.run("run", *SMALL, "true", cwd=tmp_path / "tree")
    assert done.code == 125
    assert "(upload_failed)" in done.err
    assert rows(stack, "SELECT count(*) FROM jobs") == before
    (state,) = rows(stack, "SELECT state FROM uploads ORDER BY rowid DESC LIMIT 1")
    assert state in {("expired",), ("uploading",)}  # given up, or left to its own expiry


async def test_the_daemon_is_away(laptop: Laptop, rsync_proxy: Proxy, tmp_path: Path) -> None:
    tree(tmp_path / "tree")
    rsync_proxy.down = True
    done = await laptop.run("run", *SMALL, "true", cwd=tmp_path / "tree")
    assert done.code == 125
    assert "is the tunnel up? (upload_failed)" in done.err


# ------------------------------------------------------------------ a wrong clock


@pytest.mark.parametrize("shift", ["+3y", "-3y"])
async def test_a_wrong_clock(laptop: Laptop, tmp_path: Path, shift: str) -> None:
    """Jobs run, logs are cut where the host's clock says, ages are right, and doctor tells."""
    wrong = ("faketime", "-f", shift)
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a").write_text("data\n")
    done = await laptop.run(
        *("run", "--no-timestamps", *SMALL, "cat a"), cwd=tmp_path / "tree", wrap=wrong
    )
    assert (done.code, done.out) == (0, "data\n"), done
    job = (await laptop.json("ps", "ps", "--all"))["jobs"][0]["id"]
    recent = await laptop.run("logs", "--no-timestamps", "--since", "10m", job, wrap=wrong)
    assert (recent.code, recent.out) == (0, "data\n")
    listed = await laptop.run("ps", "--all", wrap=wrong)
    age = next(line for line in listed.out.splitlines() if line.startswith(job)).split()[3:5]
    assert age[1] in {"ms", "s", "min"}, listed.out
    doctor = await laptop.run("doctor", wrap=wrong)
    assert doctor.code == 0
    (clock,) = [line for line in doctor.out.splitlines() if " clock " in line]
    assert clock.startswith("warning")
    assert ("ahead of" if shift[0] == "+" else "behind") in clock
