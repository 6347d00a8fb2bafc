"""``/jobs/{id}/artifacts``: the list, ranges, conditions, tar, refusals."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
from pathlib import Path
from urllib.parse import quote

import pytest
from api_rig import Rig, make_rig, refused

from flashpods.allocator import PIECE_BYTES
from flashpods.api.download import CHUNKS
from flashpods.jobs.model import Note, Phase
from flashpods.jobs.states import JobStatus

DATA = bytes(range(256)) * 4


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return make_rig(tmp_path)


async def test_list(rig: Rig) -> None:
    job_id = await rig.completed({"a.bin": DATA, "dir/b": b"b"})
    async with rig.client() as client:
        listed = (await client.get(f"/jobs/{job_id}/artifacts")).json()["artifacts"]
    assert [(a["name"], a["type"]) for a in listed] == [("a.bin", "file"), ("dir", "directory")]
    assert listed[0] == {
        "name": "a.bin",
        "type": "file",
        "size_bytes": len(DATA),
        "sha256": hashlib.sha256(DATA).hexdigest(),
        "created_at": listed[0]["created_at"],
    }
    assert listed[1]["sha256"] is None


async def test_download_and_its_headers(rig: Rig) -> None:
    job_id = await rig.completed({"a.bin": DATA})
    digest = hashlib.sha256(DATA)
    async with rig.client() as client:
        for method in ("GET", "HEAD"):
            answer = await client.request(method, f"/jobs/{job_id}/artifacts/a.bin")
            assert answer.status_code == 200
            assert answer.content == (DATA if method == "GET" else b"")
            assert answer.headers["content-length"] == str(len(DATA))
            assert answer.headers["content-type"] == "application/octet-stream"
            assert answer.headers["etag"] == f'"{digest.hexdigest()}"'
            shown = base64.b64encode(digest.digest()).decode()
            assert answer.headers["repr-digest"] == f"sha-256=:{shown}:"
            assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''a.bin"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["accept-ranges"] == "bytes"


async def test_larger_than_a_chunk_and_empty(rig: Rig) -> None:
    data = b"0123456789abcdef" * (2 * CHUNKS * PIECE_BYTES // 16) + b"tail"
    job_id = await rig.completed({"big": data, "empty": b""})
    async with rig.client() as client:
        assert (await client.get(f"/jobs/{job_id}/artifacts/big")).content == data
        answer = await client.get(f"/jobs/{job_id}/artifacts/empty")
        assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize(
    ("given", "begin", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-", 0, 1024),
        ("bytes=10-19", 10, 20),
        ("bytes=1000-99999", 1000, 1024),
        ("bytes=-24", 1000, 1024),
        ("bytes=-9999", 0, 1024),
        ("Bytes = 1-2", 1, 3),
    ],
)
async def test_ranges(rig: Rig, given: str, begin: int, end: int) -> None:
    job_id = await rig.completed({"a": DATA})
    async with rig.client() as client:
        answer = await client.get(f"/jobs/{job_id}/artifacts/a", headers={"Range": given})
        assert answer.status_code == 206
        assert answer.content == DATA[begin:end]
        assert answer.headers["content-range"] == f"bytes {begin}-{end - 1}/1024"
        assert answer.headers["content-length"] == str(end - begin)


@pytest.mark.parametrize(
    "given", ["bytes=1024-", "bytes=2-1", "bytes=-0", "bytes=-", "bytes=a-b", "bytes=", "bytes=--1"]
)
async def test_bad_ranges(rig: Rig, given: str) -> None:
    job_id = await rig.completed({"a": DATA})
    async with rig.client() as client:
        answer = await client.get(f"/jobs/{job_id}/artifacts/a", headers={"Range": given})
        refused(answer, 416, "range_not_satisfiable")
        assert answer.headers["content-range"] == "bytes */1024"


@pytest.mark.parametrize("given", ["bytes=0-1,4-5", "lines=1-2", "1-2"])
async def test_other_ranges_are_answered_with_the_whole(rig: Rig, given: str) -> None:
    job_id = await rig.completed({"a": DATA})
    async with rig.client() as client:
        answer = await client.get(f"/jobs/{job_id}/artifacts/a", headers={"Range": given})
        assert (answer.status_code, answer.content) == (200, DATA)


async def test_conditions(rig: Rig) -> None:
    job_id = await rig.completed({"a": DATA})
    tag = f'"{hashlib.sha256(DATA).hexdigest()}"'
    async with rig.client() as client:

        async def status(**headers: str) -> int:
            named = {k.replace("_", "-"): v for k, v in headers.items()}
            answer = await client.get(f"/jobs/{job_id}/artifacts/a", headers=named)
            if answer.status_code == 304:
                assert (answer.content, answer.headers["etag"]) == (b"", tag)
            return answer.status_code

        assert await status(If_None_Match=tag) == 304
        assert await status(If_None_Match=f'"x", W/{tag}') == 304
        assert await status(If_None_Match="*") == 304
        assert await status(If_None_Match='"x"') == 200
        assert await status(If_Range=tag, Range="bytes=0-1") == 206
        assert await status(If_Range='"x"', Range="bytes=0-1") == 200
        assert await status(If_Range=f"W/{tag}", Range="bytes=0-1") == 200
        assert await status(If_Range="Tue, 24 Nov 2026 09:30:00 GMT", Range="bytes=0-1") == 200


async def test_directory_is_a_tar(rig: Rig) -> None:
    job_id = await rig.completed({"site/index.html": b"hi", "site/css/a.css": b"x" * 5000})
    async with rig.client() as client:
        answer = await client.get(f"/jobs/{job_id}/artifacts/site")
        assert answer.headers["content-type"] == "application/x-tar"
        assert answer.headers["content-disposition"].endswith("''site.tar")
        with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
            assert tar.extractfile("site/css/a.css").read() == b"x" * 5000  # type: ignore[union-attr] # it is a file
        head = await client.head(f"/jobs/{job_id}/artifacts/site")
        assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize("name", ["ü n.txt", "100%.txt", "a?b#c", ".env", "a;b'c\"d", "☃" * 80])
async def test_odd_names(rig: Rig, name: str) -> None:
    job_id = await rig.completed({name: DATA})
    async with rig.client() as client:
        answer = await client.get(f"/jobs/{job_id}/artifacts/{quote(name, safe='')}")
        assert (answer.status_code, answer.content) == (200, DATA)
        shown = answer.headers["content-disposition"]
        assert shown == f"attachment; filename*=UTF-8''{quote(name, safe='')}"


@pytest.mark.parametrize(
    "name",
    [
        "%2e%2e",
        "..%2f..%2fetc%2fpasswd",
        "dir%2Fb",
        "dir/b",
        "a%5Cb",
        "a%00b",
        "%20a",
        "a%20",
        "%0a",
        "dir%0a",
        "a%0ab",
        "",
        "x" * 256,
        "%2e",
    ],
)
async def test_bad_names(rig: Rig, name: str) -> None:
    job_id = await rig.completed({"dir/b": b"b"})
    async with rig.client() as client:
        answer = await client.get(f"http://api/jobs/{job_id}/artifacts/{name}")
        refused(answer, 400, "invalid_artifact_name")


async def test_unknown_name(rig: Rig) -> None:
    job_id = await rig.completed({"a": DATA})
    async with rig.client() as client:
        refused(await client.get(f"/jobs/{job_id}/artifacts/b"), 404, "artifact_not_found")
        head = await client.head(f"/jobs/{job_id}/artifacts/b")
        assert (head.status_code, head.content) == (404, b"")


@pytest.mark.parametrize("status", list(JobStatus))
async def test_each_state(rig: Rig, status: JobStatus) -> None:
    job_id = await rig.in_state(status)
    async with rig.client() as client:
        for path, ended in (("artifacts", 200), ("artifacts/a", 404)):
            answer = await client.get(f"/jobs/{job_id}/{path}")
            if status in {JobStatus.CLEANING, JobStatus.CLEANED}:
                refused(answer, 410, "artifacts_deleted")
            elif status in {JobStatus.PENDING, JobStatus.STARTING, JobStatus.RUNNING}:
                refused(answer, 404, "artifacts_not_available")
            else:
                assert answer.status_code == ended


async def test_while_collecting_and_after_deletion(rig: Rig) -> None:
    job_id = await rig.running()
    await rig.store.note(job_id, Note(phase=Phase.COLLECTING))
    async with rig.client() as client:
        refused(await client.get(f"/jobs/{job_id}/artifacts"), 503, "copy_in_progress")
        await rig.end(job_id)
        await rig.store.note(job_id, Note(artifacts_deleted_at=rig.clock.now()))
        refused(await client.get(f"/jobs/{job_id}/artifacts"), 410, "artifacts_deleted")
        refused(await client.get(f"/jobs/{job_id}/artifacts/a"), 410, "artifacts_deleted")
