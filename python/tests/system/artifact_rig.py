"""What the tests of artifacts share: a job that leaves some, their list, one of them."""

from __future__ import annotations

import hashlib
import io
import tarfile
from typing import Any
from urllib.parse import quote

import httpx
import support

Row = dict[str, Any]


async def listed(client: httpx.AsyncClient, job_id: str) -> dict[str, Row]:
    answer = await client.get(f"/jobs/{job_id}/artifacts")
    assert answer.status_code == 200, answer.text
    found = answer.json()["artifacts"]
    assert all(set(a) == {"name", "type", "size_bytes", "sha256", "created_at"} for a in found)
    return {a["name"]: a for a in found}


async def left(client: httpx.AsyncClient, command: str) -> tuple[Row, dict[str, Row]]:
    """Run a job in ``/artifacts``; return its row and what was collected, by name."""
    row = await support.run(client, f"cd /artifacts; {command}")
    return row, await listed(client, row["id"])


def url(job_id: str, name: str) -> str:
    return f"/jobs/{job_id}/artifacts/{quote(name, safe='')}"


async def fetched(client: httpx.AsyncClient, job_id: str, artifact: Row) -> bytes:
    """Download an artifact; a file's content is checked against its row."""
    answer = await client.get(url(job_id, artifact["name"]))
    assert answer.status_code == 200, answer.text
    if artifact["type"] == "file":
        assert len(answer.content) == artifact["size_bytes"]
        assert hashlib.sha256(answer.content).hexdigest() == artifact["sha256"]
    return answer.content


def with_warning(row: Row, *words: str) -> bool:
    return any(all(word in line for word in words) for line in row["warnings"])


def unpacked(tar: bytes) -> dict[str, bytes]:
    """Return the regular files of a tar; there must be nothing but files and directories."""
    files = {}
    with tarfile.open(fileobj=io.BytesIO(tar), mode="r|") as archive:
        for member in archive:
            assert member.isfile() or member.isdir(), member
            content = archive.extractfile(member)
            if content is not None:
                files[member.name] = content.read()
    return files
