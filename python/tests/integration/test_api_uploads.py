"""``/uploads`` over HTTP."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from api_rig import Rig, make_rig, refused


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return make_rig(tmp_path)


async def test_reserve_push_finalize_look_discard(rig: Rig) -> None:
    async with rig.client() as client:
        answer = await client.post("/uploads")
        assert answer.status_code == 201
        body = answer.json()
        upload = body["upload_id"]
        assert answer.headers["location"] == f"/uploads/{upload}"
        assert body == {
            "upload_id": upload,
            "state": "uploading",
            "rsync_url": f"rsync://10.0.0.1/uploads/{upload}/",
            "base": None,
            "limits": {"max_bytes": 2 * 1024**3, "total_bytes": 10 * 1024**3},
            "expires_at": "2026-11-24T10:00:00Z",
        }
        refused(await client.post(f"/uploads/{upload}/finalize"), 404, "upload_not_found")
        tree = rig.workspaces.transfers / upload
        tree.mkdir(parents=True)
        (tree / "main.c").write_bytes(b"int main;")
        answer = await client.post(f"/uploads/{upload}/finalize", json={})
        assert answer.status_code == 200
        assert answer.json() == {
            "upload_id": upload,
            "state": "finalized",
            "size_bytes": 9,
            "file_count": 1,
            "finalized_at": "2026-11-24T09:30:00Z",
            "expires_at": "2026-11-24T10:30:00Z",
        }
        refused(await client.post(f"/uploads/{upload}/finalize"), 409, "upload_already_finalized")
        row = (await client.get(f"/uploads/{upload}")).json()
        assert (row["state"], row["project"], row["job_id"]) == ("finalized", None, None)
        answer = await client.delete(f"/uploads/{upload}")
        assert (answer.status_code, answer.content) == (204, b"")
        assert (await client.get(f"/uploads/{upload}")).json()["state"] == "expired"
        refused(await client.post(f"/uploads/{upload}/finalize"), 410, "upload_expired")


async def test_a_live_transfer_is_in_the_way(rig: Rig) -> None:
    async with rig.client() as client:
        upload = (await client.post("/uploads", json={"project": "p"})).json()["upload_id"]
        rig.store.transferring.add(upload)
        refused(await client.post(f"/uploads/{upload}/finalize"), 409, "upload_in_progress")
        refused(await client.delete(f"/uploads/{upload}"), 409, "upload_in_progress")
        assert (await client.get(f"/uploads/{upload}")).json()["state"] == "uploading"


@pytest.mark.parametrize(
    "body", [b"[]", b"{", b"1", b'{"projct":"x"}', b'{"project":""}', b'{"project":"../x"}']
)
async def test_bad_reservations(rig: Rig, body: bytes) -> None:
    async with rig.client() as client:
        refused(await client.post("/uploads", content=body), 400, "invalid_request")
    assert await rig.store.uploads("uploading") == []


@pytest.mark.parametrize("upload", ["upload_0", "x", "upload_" + "a" * 65, "upload_000000000000"])
async def test_unknown_uploads(rig: Rig, upload: str) -> None:
    async with rig.client() as client:
        for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/finalize")):
            answer = await client.request(method, f"/uploads/{upload}{path}")
            refused(answer, 404, "upload_not_found")


async def finalized(rig: Rig, client: httpx.AsyncClient, **body: str) -> str:
    upload = str((await client.post("/uploads", json=body)).json()["upload_id"])
    tree = rig.workspaces.transfers / upload
    tree.mkdir(parents=True)
    (tree / "main.c").write_bytes(b"int main;")
    assert (await client.post(f"/uploads/{upload}/finalize")).status_code == 200
    return upload


async def test_a_copy_is_another_upload_of_the_same_files(rig: Rig) -> None:
    async with rig.client() as client:
        first = await finalized(rig, client, project="p")
        answer = await client.post(f"/uploads/{first}/copy")
        assert answer.status_code == 201
        row = answer.json()
        assert row["upload_id"] != first
        assert answer.headers["location"] == f"/uploads/{row['upload_id']}"
        assert (row["state"], row["size_bytes"], row["file_count"]) == ("finalized", 9, 1)
        assert row["project"] is None  # the source alone becomes its project's base
        for upload in (first, row["upload_id"]):
            body = {"type": "worker", "command": "true", "files_id": upload, "cpus": 1}
            assert (await client.post("/jobs", json=body)).status_code == 201


async def test_what_can_not_be_copied(rig: Rig) -> None:
    async with rig.client() as client:
        refused(await client.post("/uploads/upload_000000000000/copy"), 404, "upload_not_found")
        open_one = (await client.post("/uploads")).json()["upload_id"]
        refused(await client.post(f"/uploads/{open_one}/copy"), 409, "upload_not_finalized")
        taken = await finalized(rig, client)
        body = {"type": "worker", "command": "true", "files_id": taken, "cpus": 1}
        assert (await client.post("/jobs", json=body)).status_code == 201
        refused(await client.post(f"/uploads/{taken}/copy"), 409, "upload_already_consumed")
        gone = await finalized(rig, client)
        assert (await client.delete(f"/uploads/{gone}")).status_code == 204
        refused(await client.post(f"/uploads/{gone}/copy"), 410, "upload_expired")
        assert await rig.store.uploads("finalized") == [await rig.store.get_upload(taken)]
        late = await finalized(rig, client)
        rig.clock.advance(3600)  # no reaper has come by
        refused(await client.post(f"/uploads/{late}/copy"), 410, "upload_expired")


async def test_a_job_that_takes_the_source_meanwhile_leaves_no_copy(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rig.client() as client:
        source = await finalized(rig, client)
        copy = rig.workspaces.copy

        async def slow(upload_id: str, target_id: str) -> None:
            await copy(upload_id, target_id)
            body = {"type": "worker", "command": "true", "files_id": source, "cpus": 1}
            assert (await client.post("/jobs", json=body)).status_code == 201

        monkeypatch.setattr(rig.workspaces, "copy", slow)
        refused(await client.post(f"/uploads/{source}/copy"), 409, "upload_already_consumed")
        assert await rig.workspaces.finalized() in ([], [source])
        assert await rig.store.uploads("uploading") == []


async def test_a_copy_over_the_quota(rig: Rig) -> None:
    async with rig.client() as client:
        source = await finalized(rig, client)
        rig.app.context.services.uploads.total_bytes = 17
        refused(await client.post(f"/uploads/{source}/copy"), 507, "insufficient_storage")
        assert await rig.workspaces.finalized() == [source]
        assert await rig.store.uploads("uploading") == []
