"""A laptop that sleeps longer than any timeout, in the midst of all that it does: minutes."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from pathlib import Path

import pytest
import support
from command_line import Laptop, finish
from laptop_work import LINES, SMALL, blob, detached, rows, tree
from proxy import Proxy

from flashpods_dev.stack import MiniStack

# The longest there is are the rsync daemon's 300 s; a request has 160 s at most, a stream 60 s.
ASLEEP_SECONDS = 320
SLOW = f"i=0; while [ $i -lt {LINES} ]; do i=$((i+1)); echo line $i; sleep 1; done; exit 7"


def descendants(pid: int) -> list[int]:
    """Return a process and all that it started, which run in sessions of their own."""
    found = [pid]
    for one in found:
        for task in Path(f"/proc/{one}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


@pytest.mark.laptop_full
async def test_a_laptop_that_sleeps_wakes_up_to_the_truth(
    laptop: Laptop, stack: MiniStack, proxy: Proxy, rsync_proxy: Proxy, tmp_path: Path
) -> None:
    job, digest = await blob(laptop)
    long = await detached(laptop, SLOW)
    ends = await detached(laptop, "sleep 30; exit 5")  # while the laptop sleeps
    digests = tree(tmp_path / "tree")
    proxy.bytes_per_second = 2_000_000
    (uploads,) = rows(stack, "SELECT count(*) FROM uploads")[0]
    (jobs,) = rows(stack, "SELECT count(*) FROM jobs")[0]
    commands = {
        "attach": await laptop.start("attach", "--no-timestamps", long),
        "wait": await laptop.start("wait", ends),
        "download": await laptop.start("download", job, "blob", "--to", "got/"),
    }
    rsync_proxy.hold_at = 3_000_000  # the push hangs in its midst
    commands["run"] = await laptop.start(
        *("run", "--no-timestamps", *SMALL, "--", "sha256sum *"), cwd=tmp_path / "tree"
    )
    await support.true_soon(
        lambda: proxy.to_laptop > 1_000_000 and rsync_proxy.to_host >= 3_000_000,
        "all began",
        seconds=60,
    )
    asleep = [pid for command in commands.values() for pid in descendants(command.pid)]
    for pid in asleep:
        os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(ASLEEP_SECONDS)
    proxy.cut()  # as the tunnel's peers would: nothing of theirs is known any more
    rsync_proxy.cut()
    rsync_proxy.hold_at = None
    proxy.bytes_per_second = None
    for pid in asleep:
        os.kill(pid, signal.SIGCONT)
    done = dict(
        zip(
            commands,
            await asyncio.gather(*(finish(c, seconds=600) for c in commands.values())),
            strict=True,
        )
    )
    assert (done["attach"].code, done["wait"].code) == (7, 5), done
    assert done["attach"].out == "".join(f"line {i}\n" for i in range(1, LINES + 1))
    assert done["download"].code == 0, done["download"]
    with (tmp_path / "got/blob").open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == digest
    assert done["run"].code == 0, done["run"]
    assert {line[66:]: line[:64] for line in done["run"].out.splitlines()} == digests
    assert rows(stack, "SELECT count(*) FROM uploads") == [(uploads + 1,)]
    assert rows(stack, "SELECT count(*) FROM jobs") == [(jobs + 1,)]
