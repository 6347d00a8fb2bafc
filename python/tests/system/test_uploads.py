"""Uploads on the real stack: their life, every refusal, and what a hostile tree comes to."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
import sqlite3
import stat
from collections.abc import Awaitable, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import support
from running_api import ApiFactory, RunningApi
from support import Connected, Rsync, assert_refused

from flashpods.client import ClientConfig, FlashpodsClient
from flashpods.client.rsync import Ending, build_command, judge, run_rsync
from flashpods_dev.machine import RSYNC_UID, SUBIDS_START, UID
from flashpods_dev.stack import MiniStack

UNKNOWN = "upload_nobodyhasthis"


@pytest.fixture
def tree(reachable_path: Path) -> Path:
    """A small tree: 3 files, 12 bytes."""
    path = reachable_path / "tree"
    (path / "sub").mkdir(parents=True)
    (path / "a").write_text("aaaa")
    (path / "b").write_text("bbbb")
    (path / "sub" / "c").write_text("cccc")
    return path


def transfers(host: Connected | RunningApi, upload_id: str) -> Path:
    return host.settings.paths.transfers / upload_id


def finalized(host: Connected | RunningApi, upload_id: str) -> Path:
    return host.settings.paths.finalized / upload_id


def change_row(stack: MiniStack, sql: str, *values: object) -> None:
    """Change the database behind the API's back: to have time pass, or a hook be lost."""
    with closing(sqlite3.connect(stack.layout.database, timeout=10)) as connection, connection:
        connection.execute(sql, values)


def let_expire(stack: MiniStack, upload_id: str) -> None:
    sql = "UPDATE uploads SET expires_at = '2020-01-01T00:00:00.000Z' WHERE id = ?"
    change_row(stack, sql, upload_id)


async def upload_of(client: httpx.AsyncClient, upload_id: str) -> dict[str, Any]:
    answer = await client.get(f"/uploads/{upload_id}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def job_count(client: httpx.AsyncClient) -> int:
    return int((await client.get("/jobs", params={"limit": 1})).json()["total"])


def at(text: str) -> datetime:
    assert text.endswith("Z")
    return datetime.fromisoformat(text)


def lasts(upload: dict[str, Any]) -> timedelta:
    """Return how long an upload may stay unfinished, in whole seconds."""
    seconds = (at(upload["expires_at"]) - at(upload["created_at"])).total_seconds()
    return timedelta(seconds=round(seconds))


# ------------------------------------------------------------------ life


async def test_life_from_reserve_to_consumed(host: Connected, tree: Path) -> None:
    client = host.client
    reserved = await support.reserve(client)
    upload_id = reserved["upload_id"]
    assert reserved["rsync_url"] == f"{host.rsync_url}/{upload_id}/"
    assert reserved["state"] == "uploading"
    assert reserved["limits"] == {"max_bytes": 2 * 1024**3, "total_bytes": 10 * 1024**3}

    await reserved_only(host, upload_id)
    before = await job_count(client)
    await pushed_and_finalized(host, tree, upload_id)
    assert await job_count(client) == before
    await taken_by_a_job(host, upload_id)
    assert await job_count(client) == before + 1


async def reserved_only(host: Connected, upload_id: str) -> None:
    """Nothing is pushed: it can neither be finalized nor used."""
    client = host.client
    assert_refused(await support.finalize(client, upload_id), 404, "upload_not_found")
    found = await upload_of(client, upload_id)
    assert found["state"] == "uploading"
    assert lasts(found) == timedelta(minutes=30)
    before = await job_count(client)
    refused = await support.post_job(client, "true", files_id=upload_id)
    assert_refused(refused, 409, "upload_not_finalized")
    assert await job_count(client) == before


async def pushed_and_finalized(host: Connected, tree: Path, upload_id: str) -> None:
    client = host.client
    await support.push(host, tree, upload_id)
    answer = await support.finalize(client, upload_id)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["state"] == "finalized"
    assert (body["size_bytes"], body["file_count"]) == (12, 3)
    assert at(body["expires_at"]) - at(body["finalized_at"]) == timedelta(minutes=60)
    assert not transfers(host, upload_id).exists()
    assert finalized(host, upload_id).is_dir()
    assert_refused(await support.finalize(client, upload_id), 409, "upload_already_finalized")


async def taken_by_a_job(host: Connected, upload_id: str) -> None:
    """The tree becomes the job's workspace, and goes with it."""
    client = host.client
    job_id = await support.submit(client, "cat a b sub/c; echo; exec sleep 60", files_id=upload_id)
    await support.until(client, job_id, "running")
    async with asyncio.timeout(30), support.follow(client, job_id) as stream:
        assert support.texts((await anext(stream)).data) == ["aaaabbbbcccc"]
    found = await upload_of(client, upload_id)
    assert (found["state"], found["job_id"]) == ("consumed", job_id)
    workspace = host.settings.paths.work / job_id
    assert not finalized(host, upload_id).exists()
    assert (workspace / "sub" / "c").read_text() == "cccc"
    assert_refused(await support.finalize(client, upload_id), 409, "upload_already_consumed")
    refused = await support.post_job(client, "true", files_id=upload_id)
    assert_refused(refused, 409, "upload_already_consumed")
    deleted = await client.delete(f"/uploads/{upload_id}")
    assert_refused(deleted, 409, "upload_already_consumed")
    assert (workspace / "a").read_text() == "aaaa"
    assert (await client.delete(f"/jobs/{job_id}")).status_code == 200
    await support.until(client, job_id, "cancelled")
    assert support.texts(await support.output(client, job_id)) == ["aaaabbbbcccc"]
    await support.true_soon(lambda: not workspace.exists(), "the workspace goes")
    assert_refused(await support.finalize(client, upload_id), 409, "upload_already_consumed")


@pytest.mark.parametrize("upload_id", [UNKNOWN, "upload_short", "x", "upload_..%2f..%2fetcetera"])
async def test_unknown_ids(host: Connected, upload_id: str) -> None:
    client = host.client
    before = await job_count(client)
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/finalize")):
        answer = await client.request(method, f"/uploads/{upload_id}{path}")
        assert answer.status_code == 404, answer.text
        assert answer.json()["error"] in {"upload_not_found", "not_found"}
    refused = await support.post_job(client, "true", files_id=upload_id)
    assert_refused(refused, 404, "upload_not_found")
    assert await job_count(client) == before


async def test_delete_in_each_state(host: Connected, tree: Path) -> None:
    client = host.client
    reserved = (await support.reserve(client))["upload_id"]
    uploading = await support.push(host, tree)
    final = await support.pushed(host, tree)
    for upload_id in (reserved, uploading, final):
        for _ in range(2):  # a repeated delete finds what it wanted
            answer = await client.delete(f"/uploads/{upload_id}")
            assert (answer.status_code, answer.content) == (204, b""), upload_id
        assert (await upload_of(client, upload_id))["state"] == "expired"
        assert not transfers(host, upload_id).exists()
        assert not finalized(host, upload_id).exists()
        assert_refused(await support.finalize(client, upload_id), 410, "upload_expired")
        refused = await support.post_job(client, "true", files_id=upload_id)
        assert_refused(refused, 404, "upload_not_found")
        done = await support.rsync(f"{tree}/", f"{host.rsync_url}/{upload_id}/")
        assert done.code != 0
        assert f"{upload_id} has expired; push under a new id" in done.stderr
        assert not transfers(host, upload_id).exists()


async def test_only_one_of_many_jobs_gets_the_tree(host: Connected, tree: Path) -> None:
    client = host.client
    upload_id = await support.pushed(host, tree)
    answers = await asyncio.gather(
        *(support.post_job(client, "cat a", files_id=upload_id) for _ in range(10))
    )
    (made,) = [a for a in answers if a.status_code == 201]
    for answer in answers:
        if answer is not made:
            assert_refused(answer, 409, "upload_already_consumed")
    row = await support.ended(client, made.json()["job_id"])
    assert row["status"] == "completed"


async def test_finalize_at_once_from_many_clients(host: Connected, tree: Path) -> None:
    upload_id = await support.push(host, tree)
    answers = await asyncio.gather(*(support.finalize(host.client, upload_id) for _ in range(8)))
    good = [a for a in answers if a.status_code == 200]
    assert good, [a.text for a in answers]
    for answer in answers:
        if answer not in good:
            assert_refused(answer, 409, "upload_already_finalized")
    assert {a.json()["file_count"] for a in good} == {3}


async def test_a_directory_that_no_row_knows(host: Connected, tree: Path) -> None:
    client = host.client
    # Pushed under an id of the client's own making: the hook gives it a row.
    upload_id = await support.push(host, tree, "upload_of-my_own-making")
    found = await upload_of(client, upload_id)
    assert found["state"] == "uploading"
    assert lasts(found) == timedelta(minutes=30)
    assert (await support.finalize(client, upload_id)).status_code == 200
    # Just there, as after a restore of the database: dated by the directory.
    orphan = transfers(host, "upload_foundonthedisk")
    orphan.mkdir(mode=0o755)
    (orphan / "file").write_text("x")
    for path in (orphan / "file", orphan):
        os.chown(path, RSYNC_UID, RSYNC_UID)
    found = await upload_of(client, orphan.name)
    assert found["state"] == "uploading"
    assert abs(at(found["created_at"]).timestamp() - orphan.stat().st_ctime) < 0.002
    await support.clean(host.stack)
    assert (orphan / "file").read_text() == "x"  # only its own expiry removes it
    answer = await support.finalize(client, orphan.name)
    assert answer.status_code == 200, answer.text
    assert answer.json()["file_count"] == 1


async def test_expiry(host: Connected, tree: Path) -> None:
    client = host.client
    uploading = await support.push(host, tree)
    final = await support.pushed(host, tree)
    kept = await support.pushed(host, tree)
    for upload_id in (uploading, final):
        let_expire(host.stack, upload_id)
        assert_refused(await support.finalize(client, upload_id), 410, "upload_expired")
        refused = await support.post_job(client, "true", files_id=upload_id)
        assert_refused(refused, 404, "upload_not_found")
    done = await support.rsync(f"{tree}/", f"{host.rsync_url}/{uploading}/")
    assert f"{uploading} has expired" in done.stderr
    assert transfers(host, uploading).is_dir()
    await support.clean(host.stack)
    for upload_id in (uploading, final):
        assert (await upload_of(client, upload_id))["state"] == "expired"
        assert not transfers(host, upload_id).exists()
        assert not finalized(host, upload_id).exists()
        assert_refused(await support.finalize(client, upload_id), 410, "upload_expired")
    assert (await upload_of(client, kept))["state"] == "finalized"
    assert finalized(host, kept).is_dir()


async def test_a_job_that_never_runs_expires_its_upload(host: Connected, tree: Path) -> None:
    upload_id = await support.pushed(host, tree)
    row = await support.run(host.client, "true", files_id=upload_id, image="localhost/not/here:1")
    assert (row["status"], row["error"]) == ("failed", "image_not_found")
    found = await upload_of(host.client, upload_id)
    assert found["state"] == "expired"
    await support.true_soon(
        lambda: not (host.settings.paths.work / row["id"]).exists(), "the workspace goes"
    )
    assert not finalized(host, upload_id).exists()


async def test_expiry_follows_the_settings(api: ApiFactory, tree: Path) -> None:
    running = api({"uploads": {"finalize_within_seconds": 120, "use_within_seconds": 240}})
    for upload_id in (await support.push(running, tree), "upload_unreserved123"):
        await support.push(running, tree, upload_id)
        found = await upload_of(running.client, upload_id)
        assert lasts(found) == timedelta(seconds=120)
    body = (await support.finalize(running.client, upload_id)).json()
    assert at(body["expires_at"]) - at(body["finalized_at"]) == timedelta(seconds=240)


async def test_quotas(api: ApiFactory, reachable_path: Path) -> None:
    running = api({"uploads": {"max_bytes": 100_000, "total_bytes": 150_000}})
    client = running.client
    tree = reachable_path / "tree"
    tree.mkdir()
    file = tree / "file"

    # One that is too large: refused, and everything is as it was.
    file.write_bytes(b"x" * 100_001)
    upload_id = await support.push(running, tree)
    for _ in range(2):
        answer = await support.finalize(client, upload_id)
        assert_refused(answer, 507, "insufficient_storage")
        assert answer.json()["details"]["max_bytes"] == 100_000
        assert (await upload_of(client, upload_id))["state"] == "uploading"
        assert (transfers(running, upload_id) / "file").stat().st_size == 100_001
        assert not finalized(running, upload_id).exists()
    done = await support.rsync(f"{tree}/", f"{running.rsync_url}/{upload_id}/")
    assert "holds 100001 bytes, the limit is 100000" in done.stderr
    assert (await client.delete(f"/uploads/{upload_id}")).status_code == 204

    # All together: the limit is exact.
    file.write_bytes(b"x" * 100_000)
    first = await support.pushed(running, tree)
    file.write_bytes(b"x" * 50_001)
    second = await support.push(running, tree)
    refused = await support.finalize(client, second)
    assert_refused(refused, 507, "insufficient_storage")
    assert refused.json()["details"]["total_left_bytes"] == 50_000
    third = "upload_one_more_tree"
    done = await support.rsync(f"{tree}/", f"{running.rsync_url}/{third}/")
    assert "uploads hold 150001 bytes, the limit is 150000" in done.stderr
    assert (await client.get(f"/uploads/{third}")).status_code == 404
    assert not transfers(running, third).exists()
    assert (await client.delete(f"/uploads/{second}")).status_code == 204
    file.write_bytes(b"x" * 50_000)
    fourth = await support.pushed(running, tree)
    assert {(await upload_of(client, u))["state"] for u in (first, fourth)} == {"finalized"}


# ------------------------------------------------------------------ transfers and their end


@pytest.fixture
def slow_tree(reachable_path: Path) -> Path:
    """A tree whose second file takes half a minute at 64 KiB/s."""
    path = reachable_path / "slow"
    path.mkdir()
    (path / "a").write_text("first")
    (path / "big").write_bytes(random.Random(1).randbytes(2 * 1024**2))
    return path


async def slow_push(
    host: Connected | RunningApi, tree: Path, upload_id: str, *options: str
) -> asyncio.subprocess.Process:
    """Start a push that lasts, and return when its first bytes are there."""
    target = f"{host.rsync_url}/{upload_id}/"
    process = await support.start_rsync(f"{tree}/", target, "--bwlimit=64", *options)
    directory = transfers(host, upload_id)
    await support.true_soon(
        lambda: (directory / "a").exists() and any(directory.glob(".big.*")), "the push begins"
    )
    return process


async def test_in_progress(host: Connected, slow_tree: Path) -> None:
    client = host.client
    upload_id = (await support.reserve(client))["upload_id"]
    process = await slow_push(host, slow_tree, upload_id)
    try:
        answer = await client.post(f"/uploads/{upload_id}/finalize")
        assert_refused(answer, 409, "upload_in_progress")
        assert_refused(await client.delete(f"/uploads/{upload_id}"), 409, "upload_in_progress")
        refused = await support.post_job(client, "true", files_id=upload_id)
        assert_refused(refused, 409, "upload_not_finalized")
        second = await support.rsync(f"{slow_tree}/", f"{host.rsync_url}/{upload_id}/")
        assert second.code != 0
        assert f"another transfer writes to {upload_id}" in second.stderr
        # Its time is over, and still nobody takes the tree from under it.
        let_expire(host.stack, upload_id)
        await support.clean(host.stack)
        assert (await upload_of(client, upload_id))["state"] == "uploading"
        assert (transfers(host, upload_id) / "a").read_text() == "first"
        assert process.returncode is None
    finally:
        process.kill()
        await support.finish(process)
    assert_refused(await support.finalize(client, upload_id), 410, "upload_expired")


async def test_a_killed_client_leaves_an_upload_that_can_be_finalized(
    host: Connected, slow_tree: Path
) -> None:
    upload_id = (await support.reserve(host.client))["upload_id"]
    process = await slow_push(host, slow_tree, upload_id)
    process.send_signal(signal.SIGKILL)
    await support.finish(process)
    answer = await support.finalize(host.client, upload_id)
    assert answer.status_code == 200, answer.text
    assert (finalized(host, upload_id) / "a").read_text() == "first"


async def test_a_killed_client_goes_on_where_it_was(host: Connected, slow_tree: Path) -> None:
    upload_id = (await support.reserve(host.client))["upload_id"]
    process = await slow_push(host, slow_tree, upload_id, "--partial")
    process.send_signal(signal.SIGKILL)
    await support.finish(process)
    await support.push(host, slow_tree, upload_id)
    answer = await support.finalize(host.client, upload_id)
    assert answer.status_code == 200, answer.text
    assert answer.json()["file_count"] == 2
    assert answer.json()["size_bytes"] == 5 + 2 * 1024**2
    got = (finalized(host, upload_id) / "big").read_bytes()
    assert got == (slow_tree / "big").read_bytes()


def of_transfer(stack: MiniStack, upload_id: str) -> list[int]:
    with closing(sqlite3.connect(stack.layout.database)) as connection:
        found = connection.execute("SELECT pid FROM transfers WHERE upload_id = ?", (upload_id,))
        return [pid for (pid,) in found]


def rsyncs(stack: MiniStack) -> list[int]:
    """Return the daemon's processes that serve a transfer, its descendants, parents first."""
    children: dict[int, list[int]] = {}
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            fields = (directory / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it just ended
            continue
        children.setdefault(int(fields[1]), []).append(int(directory.name))
    found: list[int] = []
    new = [stack.rsyncd.pid]
    while new:
        new = [child for pid in new for child in children.get(pid, [])]
        found += new
    return found


async def test_a_lost_post_hook_wedges_nothing(api: ApiFactory, slow_tree: Path) -> None:
    running = api()
    upload_id = (await support.reserve(running.client))["upload_id"]
    process = await slow_push(running, slow_tree, upload_id)
    assert of_transfer(running.stack, upload_id)
    for pid in rsyncs(running.stack):  # the whole transfer dies: nobody is left to call the hook
        os.kill(pid, signal.SIGKILL)
    assert (await support.finish(process)).code != 0
    assert of_transfer(running.stack, upload_id)
    answer = await support.finalize(running.client, upload_id)
    assert answer.status_code == 200, answer.text
    assert of_transfer(running.stack, upload_id) == []


# ------------------------------------------------------------------ a finalized tree is final


def digest(root: Path) -> dict[str, tuple[int, bytes]]:
    """Return what a tree is: mode and content of everything in it."""
    return {
        str(path.relative_to(root)): (
            path.lstat().st_mode,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in sorted(root.rglob("*"))
    }


async def test_nobody_changes_a_finalized_tree(host: Connected, tree: Path) -> None:
    client = host.client
    upload_id = await support.pushed(host, tree)
    before = digest(finalized(host, upload_id))
    (tree / "a").write_text("AAAA")
    (tree / "new").write_text("new")
    url = f"{host.rsync_url}/{upload_id}/"
    for options in ([], ["--inplace"], ["--delete"], ["--ignore-times"]):
        done = await support.rsync(f"{tree}/", url, *options)
        assert done.code != 0
        assert f"{upload_id} is finalized; push under a new id" in done.stderr
    done = await support.rsync(f"{tree}/", f"{url}sub/")
    assert f"{upload_id} is finalized" in done.stderr
    assert digest(finalized(host, upload_id)) == before
    assert not transfers(host, upload_id).exists()

    row = await support.run(
        client,
        "cat a; ls; for f in a sub/c new; do echo X > $f && echo WROTE; done;"
        " rm -f a; mkdir d; chmod 777 a; mount -o remount,rw /work; cat a",
        files_id=upload_id,
    )
    lines = support.texts(await support.output(client, row["id"]))
    assert row["exit_code"] == 0
    assert "WROTE" not in lines
    assert sum("Read-only file system" in line for line in lines) == 6
    assert lines[0] == "aaaaa"  # without a newline, before the list
    assert lines[-1] == "aaaa"
    done = await support.rsync(f"{tree}/", url)
    assert f"{upload_id} is consumed; push under a new id" in done.stderr


async def test_a_process_that_was_in_the_tree_is_shut_out(host: Connected, tree: Path) -> None:
    """As the user of rsync, from within: the door that finalize closes is not the hook's alone."""
    upload_id = await support.push(host, tree)
    script = """
        cd sub && echo inside && read -r go
        echo X > c && echo write; echo X > new && echo create; rm -f c && echo remove
        mv c d && echo rename; chmod 777 . && echo open; cd -P ..; echo X > a && echo write above
        rm -rf sub && echo remove above; ln -s /etc link && echo link; mkdir dir && echo make
        echo over
    """
    process = await asyncio.create_subprocess_exec(
        *("setpriv", f"--reuid={RSYNC_UID}", f"--regid={RSYNC_UID}", "--clear-groups"),
        *("/bin/sh", "-c", script),
        cwd=transfers(host, upload_id),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    async with asyncio.timeout(30):
        assert await process.stdout.readline() == b"inside\n"
        answer = await support.finalize(host.client, upload_id)
        assert answer.status_code == 200, answer.text
        before = digest(finalized(host, upload_id))
        said, _ = await process.communicate(b"go\n")
    assert said.decode().splitlines() == ["over"]
    assert digest(finalized(host, upload_id)) == before


async def test_the_client_says_why_the_host_refused(host: Connected, tree: Path) -> None:
    upload_id = await support.pushed(host, tree)
    url = f"{host.rsync_url}/{upload_id}/"
    result = await run_rsync(build_command("rsync", tree, url, exclude=(), base=None))
    assert judge(result) is Ending.FAILED
    assert result.reason == f"{upload_id} is finalized; push under a new id"


# ------------------------------------------------------------------ hostile trees


async def test_links_stay_links(host: Connected, tree: Path) -> None:
    links = {
        "absolute": "/etc/passwd",
        "upwards": "../../../../../../etc/passwd",
        "inside": "sub/c",
        "dangling": "nothing",
        "directory": "/etc",
        "odd": "/rsyncd-munged/etc/passwd",
        "sub/up": "../a",
    }
    for name, target in links.items():
        (tree / name).symlink_to(target)
    upload_id = await support.push(host, tree)
    answer = await support.finalize(host.client, upload_id)
    assert answer.status_code == 200, answer.text
    assert answer.json()["file_count"] == 3 + len(links)
    assert answer.json()["size_bytes"] == 12  # of what they point to, nothing is counted
    root = finalized(host, upload_id)
    assert {name: str((root / name).readlink()) for name in links} == links
    quoted = " ".join(links)
    row = await support.run(
        host.client,
        f"for l in {quoted}; do readlink $l; done; cat inside; cat sub/up; test -d directory/apt"
        " && echo of-the-image",
        files_id=upload_id,
    )
    lines = support.texts(await support.output(host.client, row["id"]))
    assert lines == [*links.values(), "ccccaaaaof-the-image"]
    assert row["exit_code"] == 0


async def test_no_way_out_through_a_link_that_was_pushed(host: Connected, tree: Path) -> None:
    victim = await support.push(host, tree)
    outside = host.settings.paths.work
    (tree / "out").symlink_to("..")
    (tree / "work").symlink_to(outside)
    (tree / "victim").symlink_to(f"../{victim}")
    upload_id = await support.push(host, tree)
    before = digest(transfers(host, victim))
    evil = tree.parent / "evil"
    evil.mkdir()
    (evil / "a").write_text("evil")
    for name in ("out/", "work/", "victim/", "victim", f"out/{victim}/"):
        for options in (["--inplace"], ["--delete"]):  # one at a time: each may be the one
            await support.rsync(f"{evil}/", f"{host.rsync_url}/{upload_id}/{name}", *options)
    assert digest(transfers(host, victim)) == before
    assert not (outside / "a").exists()
    assert not (transfers(host, upload_id).parent / "a").exists()
    answer = await support.finalize(host.client, upload_id)
    assert answer.status_code == 200, answer.text


async def test_devices_pipes_sockets_setuid_and_owners_do_not_survive(
    host: Connected, tree: Path
) -> None:
    (tree / "setuid").write_text("#!/bin/sh\n")
    (tree / "setuid").chmod(0o6755)
    (tree / "sticky").mkdir()
    (tree / "sticky").chmod(0o1777)
    (tree / "closed").mkdir()
    (tree / "closed" / "secret").write_text("read me")
    (tree / "closed" / "secret").chmod(0)
    (tree / "run").write_text("#!/bin/sh\necho ran\n")
    (tree / "run").chmod(0o755)
    os.mkfifo(tree / "pipe")
    upload_id = await support.push(host, tree, None, "-a")  # -D with it, as people do
    # What an rsync that got out of hand could have left.
    root = transfers(host, upload_id)
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "sub" / "disk", stat.S_IFBLK | 0o666, os.makedev(8, 0))
    os.mkfifo(root / "fifo", 0o666)
    (root / "owned").write_text("x")
    for name in ("null", "fifo"):
        os.chown(root / name, RSYNC_UID, RSYNC_UID)
    os.chown(root / "owned", SUBIDS_START + 1000, SUBIDS_START + 1000)
    os.chown(root / "sub" / "disk", RSYNC_UID, RSYNC_UID)
    os.mknod(root / "socket", stat.S_IFSOCK | 0o666)  # bind() takes 107 bytes of path at most
    os.chown(root / "socket", RSYNC_UID, RSYNC_UID)
    (root / "closed").chmod(0)
    answer = await support.finalize(host.client, upload_id)
    assert answer.status_code == 200, answer.text
    tree_of = finalized(host, upload_id)
    left = {p.relative_to(tree_of).as_posix(): p.lstat() for p in tree_of.rglob("*")}
    assert set(left) == {
        "a", "b", "sub", "sub/c", "setuid", "sticky", "closed", "closed/secret", "run", "owned",
    }  # fmt: skip
    assert {(info.st_uid, info.st_gid) for info in left.values()} == {(UID, UID)}
    assert all(not info.st_mode & 0o7000 for info in left.values())
    row = await support.run(
        host.client,
        "./run; cat closed/secret; echo; stat -c '%a %U' run setuid a; id -un;"
        ' find . ! -user "$(id -un)" | wc -l; find . -perm /7000 | wc -l',
        files_id=upload_id,
    )
    lines = support.texts(await support.output(host.client, row["id"]))
    user = lines[5]
    assert lines[:5] == ["ran", "read me", f"755 {user}", f"755 {user}", f"644 {user}"]
    assert lines[6:] == ["0", "0"]


REFUSED = [
    ["--link-dest=/.bases/x"], ["--link-dest=../{victim}"], ["--temp-dir=/{victim}"],
    ["--backup", "--backup-dir=/{victim}"], ["--compare-dest=/{victim}"],
    ["--partial-dir=/{victim}"], ["--copy-dest=/{victim}"], ["--copy-dest=../{victim}"],
    ["--copy-dest=/.bases/../{victim}"], ["--copy-dest=/.bases/"], ["--copy-dest=/"],
    ["-M--log-file=/{victim}/log"], ["-M--fake-super"], ["-M--super"], ["--specials"],
    ["--devices"], ["--write-devices"], ["--copy-links", "-M--copy-links"],
    ["-M--copy-unsafe-links"], ["-M--keep-dirlinks"], ["--keep-dirlinks"], ["--xattrs"],
    ["--acls"], ["--hard-links"], ["-M--files-from=/etc/passwd"],
    ["-M--munge-links"], ["-M--no-munge-links"], ["-M--config=/etc/x"], ["-M--daemon"],
    ["--chown=0:0"], ["--usermap=*:root"], ["--relative"], ["-M--rsync-path=/bin/sh"],
    ["-M--sender"], ["-M--remote-option=x"], ["--atimes"], ["--append-verify"],
    ["-M--password-file=/etc/x"], ["-M--only-write-batch=/{victim}/x"], ["-M--suffix=/x"],
]  # fmt: skip


async def test_dangerous_options_are_refused(host: Connected, tree: Path) -> None:
    victim = await support.push(host, tree)
    before = digest(transfers(host, victim))
    names = {p.name for p in transfers(host, "").iterdir()}
    chosen = [[option.format(victim=victim) for option in options] for options in REFUSED]
    pushes = [
        support.rsync(f"{tree}/", f"{host.rsync_url}/upload_refused-{number:03}/", *options)
        for number, options in enumerate(chosen)
    ]
    for options, done in zip(chosen, await at_once(pushes), strict=True):
        assert done.code != 0, options
        if not options[0].startswith("-M"):  # others break the protocol
            assert "refuse" in done.stderr or "not allowed" in done.stderr, (options, done.stderr)
    assert {p.name for p in transfers(host, "").iterdir()} == names
    assert digest(transfers(host, victim)) == before


async def at_once(pushes: Sequence[Awaitable[Rsync]]) -> list[Rsync]:
    """Run pushes five at a time: a daemon that refuses waits half a second before it hangs up."""
    ends: list[Rsync] = []
    for first in range(0, len(pushes), 5):
        ends += await asyncio.gather(*pushes[first : first + 5])
    return ends


async def test_other_places_are_refused(host: Connected, tree: Path) -> None:
    victim = await support.push(host, tree)
    mine = (await support.reserve(host.client))["upload_id"]
    module = transfers(host, mine).parent
    names = {p.name for p in module.iterdir()}
    before = digest(transfers(host, victim))
    (tree / "a").write_text("evil")
    paths = [
        "", "/", ".bases/p/", ".bases/", f"{mine}", "upload_short/", "other/", "../x/", "..",
        f"{mine}/../{victim}/", f"{mine}/sub/../../x/", f"./{mine}/../{victim}/",
        f"{mine}/./../{victim}/", "/etc/", f"//{victim}", f"{mine}/..", f"{victim[:-1]}?/", "*/",
        "upload_abcdefghijk\u00e9/", "-e/", "upload_abcdefghijkl;x/", "upload_abcdefghijkl$(x)/",
    ]  # fmt: skip
    pushes = [support.rsync(f"{tree}/", f"{host.rsync_url}/{p}", "--delete") for p in paths]
    for path, done in zip(paths, await at_once(pushes), strict=True):
        assert done.code != 0, path
        assert "pre-xfer exec returned failure" in done.stderr, (path, done.stderr)
    assert {p.name for p in module.iterdir()} == names
    assert digest(transfers(host, victim)) == before
    assert list((module / ".bases").iterdir()) == []
    # And nothing is ever read from it.
    for path in ("", f"{victim}/", f"{victim}/a"):
        done = await support.rsync(f"{host.rsync_url}/{path}", str(tree.parent / "back"))
        assert done.code != 0
        assert not (tree.parent / "back").exists()


# ------------------------------------------------------------------ bases


async def test_a_second_push_of_a_project_sends_what_changed(
    host: Connected, reachable_path: Path
) -> None:
    tree = reachable_path / "project"
    chaos = random.Random(2)
    for number in range(20):
        file = tree / f"d{number % 4}" / f"f{number}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(chaos.randbytes(1024**2))
    (tree / "link").symlink_to("/etc/passwd")
    (tree / "run").write_text("#!/bin/sh\necho ran\n")
    (tree / "run").chmod(0o755)
    total = 20 * 1024**2
    config = ClientConfig(
        token=host.client.headers["Authorization"].removeprefix("Bearer "),
        api_url=host.stack.api_url,
    )
    base = host.settings.paths.transfers / ".bases" / "project"
    async with FlashpodsClient(config) as client:
        first = await client.push(tree, project="project")
        assert first.base is None
        assert first.sent_bytes is not None
        assert first.sent_bytes > total
        await support.run(host.client, "true", files_id=first.upload_id)
        await support.true_soon(base.is_dir, "the first tree becomes the base")

        (tree / "d1" / "f5").write_bytes(b"changed\n")
        # Within the same second and of the same size: only the nanoseconds tell.
        then = (tree / "d3" / "f7").stat().st_mtime_ns
        (tree / "d3" / "f7").write_bytes(chaos.randbytes(1024**2))
        os.utime(tree / "d3" / "f7", ns=(then, then // 10**9 * 10**9 + (then + 1) % 10**9))
        (tree / "d2" / "f6").unlink()
        second = await client.push(tree, project="project")
    assert second.base == "/.bases/project"
    assert second.sent_bytes is not None
    assert second.sent_bytes < total / 100 + 1024**2
    row = await support.run(
        host.client,
        "find . -type f | LC_ALL=C sort | xargs sha256sum; readlink link; ./run",
        files_id=second.upload_id,
    )
    lines = support.texts(await support.output(host.client, row["id"]))
    expected = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  ./{path.relative_to(tree)}"
        for path in sorted(tree.rglob("*"), key=lambda p: f"./{p.relative_to(tree)}".encode())
        if path.is_file() and not path.is_symlink()
    ]
    assert lines == [*expected, "/etc/passwd", "ran"]
    # The project's base is no other project's.
    assert (await support.reserve(host.client, project="project2"))["base"] is None


@pytest.mark.parametrize("project", ["", "../x", "a/b", ".hidden", "x" * 65, 7, ["x"], "a b"])
async def test_a_project_name_is_a_name(host: Connected, project: object) -> None:
    answer = await host.client.post("/uploads", json={"project": project})
    assert_refused(answer, 400, "invalid_request")
    assert "project" in answer.json()["message"]


async def test_without_files_work_is_empty(host: Connected) -> None:
    row = await support.run(host.client, "pwd; ls -A /work | wc -l; touch /work/x")
    lines = support.texts(await support.output(host.client, row["id"]))
    assert lines[:2] == ["/work", "0"]
    assert "Read-only file system" in lines[2]
    assert row["status"] == "failed"


# ------------------------------------------------------------------ restarts


async def test_a_restart_between_finalize_and_job_keeps_everything(
    api: ApiFactory, tree: Path
) -> None:
    running = api()
    open_one = await support.push(running, tree)
    first = await support.pushed(running, tree)
    second = await support.pushed(running, tree)
    before = [await upload_of(running.client, u) for u in (open_one, first, second)]
    running.restart()
    assert [await upload_of(running.client, u) for u in (open_one, first, second)] == before
    row = await support.run(running.client, "cat a b sub/c", files_id=first)
    assert support.texts(await support.output(running.client, row["id"])) == ["aaaabbbbcccc"]
    running.kill()
    running.start()
    row = await support.run(running.client, "cat a b sub/c", files_id=second)
    assert support.texts(await support.output(running.client, row["id"])) == ["aaaabbbbcccc"]
    assert (await support.finalize(running.client, open_one)).status_code == 200
