"""``/uploads`` over HTTP."""

from __future__ import annotations

from pathlib import Path

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
