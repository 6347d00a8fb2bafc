"""An upload's life on the real stack: reserve, push, finalize, use, expiry, quotas, a restart."""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from pathlib import Path

import pytest
import support
from running_api import ApiFactory
from support import Connected, assert_refused
from upload_rig import (
    at,
    counted,
    finalized,
    job_count,
    lasts,
    let_expire,
    small_tree,
    transfers,
    upload_of,
)

from flashpods_dev.machine import RSYNC_UID

UNKNOWN = "upload_nobodyhasthis"


@pytest.fixture
def tree(reachable_path: Path) -> Path:
    return small_tree(reachable_path / "tree")


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
    job_id = await support.submit(client, "cat a b sub/c; echo; exec sleep 600", files_id=upload_id)
    await support.until(client, job_id, "running")
    async with asyncio.timeout(support.SECONDS), support.follow(client, job_id) as stream:
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
            answer = await support.settled(client, "DELETE", f"/uploads/{upload_id}")
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
    made = host.settings.paths.transfers.parent / "made"  # elsewhere: nobody finds half of it
    made.mkdir(mode=0o755)
    (made / "file").write_text("x")
    for path in (made / "file", made):
        os.chown(path, RSYNC_UID, RSYNC_UID)
    made.rename(orphan)
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
    await counted(running.stack, upload_id, "size_bytes", 100_001)
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
    await counted(running.stack, second, "size_bytes", 50_001)
    done = await support.rsync(f"{tree}/", f"{running.rsync_url}/{third}/")
    assert "uploads hold 150001 bytes, the limit is 150000" in done.stderr
    assert (await client.get(f"/uploads/{third}")).status_code == 404
    assert not transfers(running, third).exists()
    assert (await client.delete(f"/uploads/{second}")).status_code == 204
    file.write_bytes(b"x" * 50_000)
    fourth = await support.pushed(running, tree)
    assert {(await upload_of(client, u))["state"] for u in (first, fourth)} == {"finalized"}


async def test_without_files_work_is_empty(host: Connected) -> None:
    row = await support.run(host.client, "pwd; ls -A /work | wc -l; touch /work/x")
    lines = support.texts(await support.output(host.client, row["id"]))
    assert lines[:2] == ["/work", "0"]
    assert "Read-only file system" in lines[2]
    assert row["status"] == "failed"


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
