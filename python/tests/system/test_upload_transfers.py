"""Transfers to the real daemon: while one is under way, killed ones, and those against a base."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import support
from running_api import ApiFactory, RunningApi
from support import Connected, assert_refused
from upload_rig import finalized, let_expire, transfers, upload_of

from flashpods.client import ClientConfig, FlashpodsClient
from flashpods_dev.stack import MiniStack


@pytest.fixture
def slow_tree(reachable_path: Path) -> Path:
    """A tree whose second file takes four minutes at 8 KiB/s."""
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
    process = await support.start_rsync(f"{tree}/", target, "--bwlimit=8", *options)
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
