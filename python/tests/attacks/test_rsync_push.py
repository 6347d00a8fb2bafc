# ruff: noqa: ASYNC220 - /proc and short starts do not block
"""Attack 6: what a hostile rsync client pushes, and how soon a quota stops it."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import support
from attacker import bystander
from peak import Peak
from scoring import FULL as SIZES_ARE_REAL
from scoring import MB, QUOTA_BYTES, QUOTA_FILES, STRICT, Score
from support import Connected, Rsync, assert_refused
from upload_rig import counted

from flashpods_dev.machine import RSYNC_UID
from flashpods_dev.stack import MiniStack

FULL = pytest.mark.attacks_full
# The issue: stopped within 5 % of the quota, while it arrives. A machine that keeps the watcher
# waiting lets more in; at the finalize, which is what must not be waited for, it would be 100 %.
SLACK = 0.05 if STRICT else 0.5


def tree_of(host: Connected, upload_id: str) -> Path:
    return host.settings.paths.transfers / upload_id


async def over(
    host: Connected, source: Path, *options: str, held: Callable[[Peak], bool] = lambda _: True
) -> tuple[str, Peak, Rsync, float]:
    """Push what passes the quota; return the upload, its peak, rsync's end and its seconds.

    A machine that does other things may keep the watcher waiting until all has arrived, which takes
    two seconds; then once more. Without a watcher it is so each time.
    """
    for _ in range(0 if STRICT else 3):
        upload_id, peak, done, took = await pushed_over(host, source, *options)
        if done.code and held(peak):
            return upload_id, peak, done, took
        answer = await support.settled(host.client, "DELETE", f"/uploads/{upload_id}")
        assert answer.status_code == 204, answer.text
    return await pushed_over(host, source, *options)


async def pushed_over(
    host: Connected, source: Path, *options: str
) -> tuple[str, Peak, Rsync, float]:
    upload_id = str((await support.reserve(host.client))["upload_id"])
    began = time.monotonic()
    async with Peak(tree_of(host, upload_id)) as peak:
        done = await support.rsync(f"{source}/", f"{host.rsync_url}/{upload_id}/", *options)
    took = time.monotonic() - began
    return upload_id, peak, done, took


async def refused_from_then_on(
    host: Connected, upload_id: str, source: Path, what: str, most: int
) -> None:
    """Neither a finalize nor a further push takes it for a whole upload; deleted it frees all.

    It did pass its quota: the watcher has counted more than that.
    """
    column = "size_bytes" if what == "bytes" else "file_count"
    await counted(host.stack, upload_id, column, most + 1)  # the hook may count late
    assert_refused(await support.finalize(host.client, upload_id), 507, "insufficient_storage")
    again = await support.rsync(f"{source}/", f"{host.rsync_url}/{upload_id}/")
    assert again.code != 0
    said = re.search(rf"holds (\d+) {what}, the limit is {most}", again.stderr)
    assert said, again.stderr
    assert int(said[1]) > most
    answer = await support.settled(host.client, "DELETE", f"/uploads/{upload_id}")
    assert answer.status_code == 204, answer.text
    assert not tree_of(host, upload_id).exists()


@pytest.mark.attack(6, "rsync over the quota of bytes, as it arrives")
@pytest.mark.parametrize(
    "kind",
    [
        "one file",
        pytest.param("many files", marks=FULL),
        pytest.param("compressed", marks=FULL),
        pytest.param("inplace", marks=FULL),
    ],
)
async def test_bytes(host: Connected, scratch: Path, score: Score, kind: str) -> None:
    count = 400 if kind == "many files" else 1
    block = bytes(MB) if kind == "compressed" else os.urandom(MB)
    for number in range(count):
        with (scratch / f"f{number}").open("wb") as file:
            for _ in range(2 * QUOTA_BYTES // MB // count):
                file.write(block)
    options = {"compressed": ["-z"], "inplace": ["--inplace"]}.get(kind, [])
    most = QUOTA_BYTES * (1 + SLACK)
    upload_id, peak, done, took = await over(
        host, scratch, *options, held=lambda peak: peak.bytes <= most
    )
    with score.attempt():
        assert done.code != 0, "all of it arrived"
        score.figure("held", peak.bytes / MB, most / MB, "MB")
        score.note(
            f"{kind}: ended after {took:.1f} s, rsync said {done.code}: "
            f"{done.stderr.strip().splitlines()[0][:90] if done.stderr else ''}"
        )
    with score.attempt():
        await refused_from_then_on(host, upload_id, scratch, "bytes", QUOTA_BYTES)


@pytest.mark.attack(6, "rsync over the quota of files, as it arrives")
@pytest.mark.parametrize(
    "kind",
    ["empty files", pytest.param("directories", marks=FULL), pytest.param("links", marks=FULL)],
)
async def test_files(host: Connected, scratch: Path, score: Score, kind: str) -> None:
    for number in range(2 * QUOTA_FILES):
        path = scratch / f"d{number // 1000}" / f"f{number}"
        path.parent.mkdir(exist_ok=True)
        if kind == "directories":
            path.mkdir()
        elif kind == "links":
            path.symlink_to("x")
        else:
            path.touch()
    most = QUOTA_FILES * (1 + SLACK)
    upload_id, peak, done, took = await over(host, scratch, held=lambda peak: peak.files <= most)
    with score.attempt():
        assert done.code != 0, "all of it arrived"
        score.figure("held", peak.files, most, "entries")
        score.note(f"{kind}: ended after {took:.1f} s, rsync said {done.code}")
    with score.attempt():
        await refused_from_then_on(host, upload_id, scratch, "files and directories", QUOTA_FILES)


@pytest.mark.attack(6, "rsync: all uploads together over the total")
@FULL
async def test_total(host: Connected, scratch: Path, score: Score) -> None:
    """Four at once, each below its own quota, together at 1.6 of the total of 2."""
    with (scratch / "f").open("wb") as file:
        for _ in range(QUOTA_BYTES * 8 // 10 // MB):
            file.write(os.urandom(MB))
    ids = [str((await support.reserve(host.client))["upload_id"]) for _ in range(4)]
    async with Peak(host.settings.paths.transfers) as peak:
        ends = await asyncio.gather(
            *(
                support.rsync(f"{scratch}/", f"{host.rsync_url}/{i}/", "--bwlimit=40000")
                for i in ids
            )
        )
    with score.attempt():
        assert any(end.code for end in ends)
        total = 2 * QUOTA_BYTES / MB
        score.figure("held", peak.bytes / MB, total * (1 + SLACK), "MB")
    for upload_id in ids:
        assert (await host.client.delete(f"/uploads/{upload_id}")).status_code == 204


@pytest.mark.attack(6, "rsync just below its quotas, and again, is let through")
@FULL
async def test_what_fits_is_not_harmed(host: Connected, scratch: Path, score: Score) -> None:
    big = scratch / "big"
    big.write_bytes(os.urandom(int(0.95 * QUOTA_BYTES)))
    for number in range(1000):
        (scratch / f"s{number}").write_bytes(b"x" * 100)
    upload_id = str((await support.reserve(host.client))["upload_id"])
    for change in range(3):
        with score.attempt():
            with big.open("r+b") as file:  # rewritten whole: the old one and the new side by side
                file.seek(change * MB)
                file.write(os.urandom(MB))
            await support.push(
                host, scratch, upload_id, "--whole-file", "--modify-window=-1", "--partial"
            )
    with score.attempt():
        answer = await support.finalize(host.client, upload_id)
        assert answer.status_code == 200, answer.text
        assert answer.json()["size_bytes"] == big.stat().st_size + 100_000
    assert (await host.client.delete(f"/uploads/{upload_id}")).status_code == 204


@pytest.mark.attack(6, "rsync over the quota with the API down")
@FULL
async def test_without_the_api(
    shared: MiniStack, host: Connected, scratch: Path, score: Score
) -> None:
    with (scratch / "f").open("wb") as file:
        for _ in range(2 * QUOTA_BYTES // MB):
            file.write(os.urandom(MB))
    upload_id = str((await support.reserve(host.client))["upload_id"])
    shared.api.kill()
    try:
        async with Peak(tree_of(host, upload_id)) as peak:
            done = await support.rsync(f"{scratch}/", f"{host.rsync_url}/{upload_id}/")
    finally:
        shared.api.start()
    with score.attempt():
        assert done.code != 0
        score.figure("held", peak.bytes / MB, QUOTA_BYTES / MB * (1 + SLACK), "MB")
    await counted(host.stack, upload_id, "size_bytes", QUOTA_BYTES + 1)
    assert_refused(await support.finalize(host.client, upload_id), 507, "insufficient_storage")
    assert (await host.client.delete(f"/uploads/{upload_id}")).status_code == 204


@pytest.mark.attack(6, "rsync: the watcher is killed while it has stopped a transfer")
async def test_a_killed_watcher_leaves_nobody_stopped(score: Score) -> None:
    """The waker lets the stopped go on when the watcher dies."""
    code = (
        "import os, sys, time\n"
        "from flashpods import rsync_watch\n"
        "with rsync_watch.stopped([int(sys.argv[1])]):\n"
        "    print('stopped', flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen(["sleep", "600"]) as victim:
        state = Path(f"/proc/{victim.pid}/stat")
        watcher = subprocess.Popen(
            [sys.executable, "-c", code, str(victim.pid)], stdout=subprocess.PIPE
        )
        try:
            assert watcher.stdout is not None
            await asyncio.to_thread(watcher.stdout.readline)
            with score.attempt():
                await support.true_soon(
                    lambda: state.read_text().split()[2] == "T", "it is stopped"
                )
                watcher.kill()
                await support.true_soon(
                    lambda: state.read_text().split()[2] != "T", "the stopped one goes on"
                )
        finally:
            watcher.kill()
            watcher.communicate()
            victim.kill()


@pytest.fixture(autouse=True)
async def no_uploads_left(host: Connected) -> AsyncIterator[None]:
    """Give the quotas back, whatever the attack left."""
    yield
    for place in (host.settings.paths.transfers, host.settings.paths.finalized):
        for tree in place.glob("upload_*"):
            end = time.monotonic() + support.SECONDS
            while (await host.client.delete(f"/uploads/{tree.name}")).status_code == 409:
                assert time.monotonic() < end, tree.name
                await asyncio.sleep(0.05)


def to_daemon(url: str, target: str) -> str:
    return f"{url.rsplit('/', 1)[0]}/{target}"


OPTIONS = [
    "--backup-dir=/x", "--temp-dir=/tmp", "--partial-dir=/x", "--link-dest=/x", "--super",
    "--copy-dest=../../finalized", "--copy-dest=/etc", "--compare-dest=/x", "--fake-super",
    "--devices", "--specials", "--write-devices", "--copy-devices", "--keep-dirlinks", "-K",
    "--copy-links", "-L", "--hard-links", "-H", "--xattrs", "-X", "--acls", "-A",
    "--log-file=/tmp/x", "--remote-option=--log-file=/tmp/x", "-M--fake-super", "--munge-links",
    "--files-from=:/etc/passwd", "--preallocate", "--usermap=*:0", "--chown=0:0",
]  # fmt: skip


def places(final: str) -> list[str]:
    """Return targets at the daemon that are no upload of one's own; ``final`` is finalized."""
    return [
        f"uploads/{final}/", f"uploads/{final}/../upload_aaaaaaaaaaaa/", "uploads/../etc/",
        "uploads/", "uploads/.bases/x/", "uploads/..%2f..%2fetc/", "uploads//etc/",
        f"uploads/upload_aaaaaaaaaaaa/../../finalized/{final}/", "uploads/upload_short/",
        "uploads/upload_aaaaaaaaaaaa/../../../etc/", "uploads/upload_aaaaaaaaaaa\n/",
        "finalized/x/", "/etc/", "uploads/upload_aaaaaaaaaaaa", f"uploads/./../finalized/{final}/",
    ]  # fmt: skip


@pytest.mark.attack(6, "rsync: other places, odd files, dangerous options")
async def test_other_places(host: Connected, scratch: Path, score: Score) -> None:
    evil = scratch / "tree"
    evil.mkdir()
    (evil / "file").write_text("mine")
    final = await support.pushed(host, evil)
    before = set(host.stack.layout.trees.rglob("*"))
    targets = places(final)
    for target in targets if SIZES_ARE_REAL else targets[::2]:
        with score.attempt():
            done = await support.rsync(f"{evil}/", to_daemon(host.rsync_url, target))
            assert done.code != 0, target
    await dangerous_options(host, evil, score)
    with score.attempt():
        new = set(host.stack.layout.trees.rglob("*")) - before
        assert not [path for path in new if "/transfers/upload_options" not in str(path)]
        assert (host.settings.paths.finalized / final / "file").read_text() == "mine"
    with score.attempt():
        await odd_files(host, evil)


async def dangerous_options(host: Connected, evil: Path, score: Score) -> None:
    """Each is refused, or does no more than a push: some are of the client's own side."""
    taken = []
    for number, option in enumerate(OPTIONS if SIZES_ARE_REAL else OPTIONS[::3]):
        with score.attempt():
            upload = f"upload_options{number:06}"
            done = await support.rsync(f"{evil}/", f"{host.rsync_url}/{upload}/", option)
            if done.code == 0:
                taken.append(option)
                assert {p.name for p in tree_of(host, upload).rglob("*")} <= {"file"}
                for path in tree_of(host, upload).rglob("*"):
                    assert path.stat().st_uid == RSYNC_UID
    score.note(f"harmless here, taken: {' '.join(taken) or 'none'}")


async def odd_files(host: Connected, evil: Path) -> None:
    """Of devices, pipes, setuid and links to the host's files a job gets nothing."""
    secret = evil.parent / "secret"
    secret.write_text("the host's")  # everybody on the host may read it
    (evil / "dir").mkdir()
    (evil / "away").symlink_to(secret)
    (evil / "abs").symlink_to("/etc/passwd")
    (evil / "up").symlink_to("../../../../etc")
    os.mkfifo(evil / "fifo")
    os.mknod(evil / "dev", 0o20666, os.makedev(1, 3))
    (evil / "suid").write_text("#!/bin/sh\n")
    (evil / "suid").chmod(0o6755)
    upload_id = await support.push(host, evil, None, "-a")
    answer = await support.finalize(host.client, upload_id)
    assert answer.status_code == 200, answer.text
    tree = host.settings.paths.finalized / upload_id
    assert {p.name for p in tree.iterdir()} == {"file", "dir", "away", "abs", "up", "suid"}
    assert tree.joinpath("suid").stat().st_mode & 0o7000 == 0
    row = await support.run(
        host.client, "cat away; cat abs up/passwd | grep -c ^root:", files_id=upload_id
    )
    assert row["status"] == "completed", row
    said = support.texts(await support.output(host.client, row["id"]))
    # Not there, or beyond a directory of the container's own, such as /root; then its own passwd.
    assert said in ([f"cat: away: {os.strerror(n)}", "2"] for n in (errno.ENOENT, errno.EACCES))


@pytest.mark.attack(6, "rsync: a million files")
@pytest.mark.attacks_full
async def test_a_million(shared: MiniStack, host: Connected, scratch: Path, score: Score) -> None:
    for number in range(1_000_000):
        if number % 10_000 == 0:
            (scratch / f"d{number // 10_000}").mkdir()
        os.mknod(scratch / f"d{number // 10_000}" / f"f{number}")
    async with bystander(host) as seen:
        upload_id, peak, done, took = await over(host, scratch)
    with score.attempt():
        assert done.code != 0
        score.figure("held", peak.files, QUOTA_FILES * (1 + SLACK), "entries")
        score.figure("others' p99", seen.p99, 1.0)
        score.note(f"ended after {took:.1f} s")
    assert (await host.client.delete(f"/uploads/{upload_id}")).status_code == 204
