"""``/jobs/{id}/artifacts``: the list, a file with ranges, a directory as tar."""

from __future__ import annotations

import re
from base64 import b64encode
from binascii import unhexlify
from typing import Final
from urllib.parse import quote

from fastapi import FastAPI
from starlette.requests import Request
from starlette.types import ASGIApp

from flashpods.api import operations
from flashpods.api.context import Context
from flashpods.api.download import FileBody, IteratorBody
from flashpods.api.jobs import find
from flashpods.api.parse import no_query
from flashpods.bulkhead import Bulkhead
from flashpods.errors import BadRequest, FlashpodsError, Gone, NotFound, Unavailable, cut
from flashpods.jobs.model import Artifact, Job, Phase
from flashpods.jobs.names import valid_artifact_name
from flashpods.jobs.states import JobStatus
from flashpods.web.reply import Header, Reply, json_reply
from flashpods.web.routing import add

DOWNLOADS: Final = 64  # at once: each holds some 3 MiB, whatever its client takes
PLACE_SECONDS: Final = 5.0
_DELETED: Final = frozenset({JobStatus.CLEANING, JobStatus.CLEANED})
_RANGES: Final = re.compile(r"\s*bytes\s*=(.*)\Z", re.IGNORECASE | re.DOTALL)
_RANGE: Final = re.compile(r"\s*([0-9]{0,18})\s*-\s*([0-9]{0,18})\s*\Z")
_TAG: Final = re.compile(r'(?:W/)?("[^"]*")')


class RangeNotSatisfiable(FlashpodsError):
    """The range is malformed, or no byte of the artifact is in it."""

    status = 416
    default_code = "range_not_satisfiable"


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return (first, one past the last) byte of a ``Range`` header; None for the whole.

    Several ranges, and units other than bytes, are answered with the whole (RFC 9110, 14.2).

    Raises:
        RangeNotSatisfiable: malformed, or beyond the end.
    """
    found = _RANGES.match(header) if header else None
    if found is None or "," in found[1]:
        return None
    one = _RANGE.match(found[1])
    first, last = one.groups() if one else ("", "")
    begin = end = 0
    if first:
        begin, end = int(first), min(int(last) + 1 if last else size, size)
        if last and int(last) < begin:
            begin = size
    elif last:
        begin, end = max(size - int(last), 0), size
    if begin >= end:
        raise RangeNotSatisfiable(
            f"Range is {cut(header)}; the artifact has {size} bytes",
            headers={"Content-Range": f"bytes */{size}"},
        )
    return begin, end


def refuse_unavailable(job: Job) -> None:
    """Refuse the artifacts of a job that has none now.

    Raises:
        Gone: ``artifacts_deleted``.
        Unavailable: ``copy_in_progress``.
        NotFound: ``artifacts_not_available``, the job has not ended.
    """
    if job.artifacts_deleted_at is not None or job.status in _DELETED:
        raise Gone(f"the artifacts of job {job.id} have been deleted", code="artifacts_deleted")
    if job.terminal:
        return
    if job.phase is Phase.COLLECTING:
        raise Unavailable(
            f"the artifacts of job {job.id} are being collected; ask again in a moment",
            code="copy_in_progress",
        )
    raise NotFound(
        f"job {job.id} is {job.status.value}; its artifacts are there when it has ended",
        code="artifacts_not_available",
    )


class Artifacts:
    """The handlers."""

    def __init__(self, context: Context) -> None:
        """Keep what they use."""
        self._store = context.services.store
        self._files = context.services.artifacts
        self._places = Bulkhead(
            DOWNLOADS, seconds=PLACE_SECONDS, work=f"{DOWNLOADS} downloads are under way"
        )

    async def page(self, request: Request) -> Reply:
        """List what was collected."""
        no_query(request)
        job = await find(self._store, request.scope["path_params"]["job_id"])
        refuse_unavailable(job)
        return json_reply(
            {
                "artifacts": [
                    {
                        "name": artifact.name,
                        "type": artifact.type,
                        "size_bytes": artifact.size_bytes,
                        "sha256": artifact.sha256,
                        "created_at": artifact.created_at,
                    }
                    for artifact in await self._store.artifacts(job.id)
                ]
            }
        )

    async def download(self, request: Request) -> ASGIApp:
        """Send a file or a range of it, or a directory as tar."""
        no_query(request)
        name: str = request.scope["path_params"]["name"]
        if not valid_artifact_name(name):
            raise BadRequest(
                f"artifact name {cut(name)} can't be a file's name; take one from the list",
                code="invalid_artifact_name",
            )
        job = await find(self._store, request.scope["path_params"]["job_id"])
        refuse_unavailable(job)
        for artifact in await self._store.artifacts(job.id):
            if artifact.name == name:
                break
        else:
            raise NotFound(f"job {job.id} has no artifact {cut(name)}", code="artifact_not_found")
        if artifact.type == "directory":
            return await self._directory(request, job, artifact)
        return await self._file(request, job, artifact)

    async def _file(self, request: Request, job: Job, artifact: Artifact) -> ASGIApp:
        headers = [
            (b"content-type", b"application/octet-stream"),
            (b"accept-ranges", b"bytes"),
            *_common(artifact.name),
        ]
        tag = f'"{artifact.sha256}"' if artifact.sha256 else None
        if tag and artifact.sha256:
            headers.append((b"etag", tag.encode()))
            headers.append((b"repr-digest", _digest(artifact.sha256)))
            if _holds(request.headers.get("if-none-match"), tag):
                return Reply(304, headers=[h for h in headers if h[0] != b"content-type"])
        wanted = None
        if request.method == "GET" and request.headers.get("if-range") in {None, tag}:
            wanted = parse_range(request.headers.get("range"), artifact.size_bytes)
        file, size = await self._files.open(job.id, artifact.name)
        if size != artifact.size_bytes:
            file.close()
            raise NotFound(
                f"artifact {cut(artifact.name)} of job {job.id} is not what was collected",
                code="artifact_not_found",
            )
        begin, end = wanted or (0, size)
        if wanted:
            headers.append((b"content-range", b"bytes %d-%d/%d" % (begin, end - 1, size)))
        return FileBody(file, (begin, end), 206 if wanted else 200, headers, self._places)

    async def _directory(self, request: Request, job: Job, artifact: Artifact) -> ASGIApp:
        headers = [(b"content-type", b"application/x-tar"), *_common(f"{artifact.name}.tar")]
        if request.method == "HEAD":
            return IteratorBody(iter(()), headers, self._places)
        return IteratorBody(await self._files.tar(job.id, artifact.name), headers, self._places)


def _common(filename: str) -> list[Header]:
    disposition = f"attachment; filename*=UTF-8''{quote(filename, safe='')}"
    return [
        (b"content-disposition", disposition.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"cache-control", b"private, no-cache"),
    ]


def _digest(sha256: str) -> bytes:
    """Return the ``Repr-Digest`` field (RFC 9530) of a hexadecimal digest."""
    return b"sha-256=:%b:" % b64encode(unhexlify(sha256))


def _holds(header: str | None, tag: str) -> bool:
    """Return whether an ``If-None-Match`` names the tag (weak comparison, RFC 9110, 8.8.3.2)."""
    if header is None:
        return False
    return header.strip() == "*" or tag in _TAG.findall(header)


def register(app: FastAPI, context: Context) -> None:
    """Add the calls."""
    handlers = Artifacts(context)
    path = "/jobs/{job_id}/artifacts"
    # The name is read as a path, so that %2F reaches the rule that refuses it.
    name = f"{path}/{{name:path}}"
    add(app, "GET", path, handlers.page, operations.LIST_ARTIFACTS)
    add(app, "GET", name, handlers.download, operations.GET_ARTIFACT)
    add(app, "HEAD", name, handlers.download, operations.HEAD_ARTIFACT)
