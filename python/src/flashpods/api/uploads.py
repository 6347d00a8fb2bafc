"""``/uploads``: reserve, finalize, look, discard. The trees themselves come by rsync."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.requests import Request

from flashpods.api import operations
from flashpods.api.context import Context
from flashpods.api.parse import json_body, no_query
from flashpods.errors import BadRequest, cut
from flashpods.jobs.model import Upload
from flashpods.web.reply import Reply, json_reply
from flashpods.web.routing import add


def view(upload: Upload) -> dict[str, Any]:
    """Return the upload as ``GET`` shows it."""
    return {
        "upload_id": upload.id,
        "state": upload.state,
        "project": upload.project,
        "size_bytes": upload.size_bytes,
        "file_count": upload.file_count,
        "created_at": upload.created_at,
        "finalized_at": upload.finalized_at,
        "consumed_at": upload.consumed_at,
        "expires_at": upload.expires_at,
        "job_id": upload.job_id,
    }


class UploadCalls:
    """The handlers."""

    def __init__(self, context: Context) -> None:
        """Keep what they use."""
        self._uploads = context.services.uploads
        self._url = context.services.settings.uploads.rsync_url.rstrip("/")

    async def reserve(self, request: Request) -> Reply:
        """Reserve an id; the body may be absent."""
        no_query(request)
        body = json_body(request, empty={})
        if not isinstance(body, dict):
            raise BadRequest(f"the body is {cut(body)}; send one JSON object, or nothing")
        for field in body:
            if field != "project":
                raise BadRequest(f"unknown field {cut(field)}; allowed is project")
        upload, base = await self._uploads.reserve(body.get("project"))
        return json_reply(
            {
                "upload_id": upload.id,
                "state": upload.state,
                "rsync_url": f"{self._url}/{upload.id}/",
                "base": base,
                "limits": {
                    "max_bytes": self._uploads.max_bytes,
                    "total_bytes": self._uploads.total_bytes,
                },
                "expires_at": upload.expires_at,
            },
            201,
            ((b"location", f"/uploads/{upload.id}".encode()),),
        )

    async def finalize(self, request: Request) -> Reply:
        """Close the upload to further writing."""
        no_query(request)
        upload = await self._uploads.finalize(request.scope["path_params"]["upload_id"])
        return json_reply(
            {
                "upload_id": upload.id,
                "state": upload.state,
                "size_bytes": upload.size_bytes,
                "file_count": upload.file_count,
                "finalized_at": upload.finalized_at,
                "expires_at": upload.expires_at,
            }
        )

    async def copy(self, request: Request) -> Reply:
        """Make a second finalized upload of the same files."""
        no_query(request)
        upload = await self._uploads.copy(request.scope["path_params"]["upload_id"])
        return json_reply(view(upload), 201, ((b"location", f"/uploads/{upload.id}".encode()),))

    async def get(self, request: Request) -> Reply:
        """Show an upload."""
        no_query(request)
        return json_reply(view(await self._uploads.get(request.scope["path_params"]["upload_id"])))

    async def discard(self, request: Request) -> Reply:
        """Expire an upload and delete its tree."""
        no_query(request)
        await self._uploads.discard(request.scope["path_params"]["upload_id"])
        return Reply(204)


def register(app: FastAPI, context: Context) -> None:
    """Add the calls."""
    handlers = UploadCalls(context)
    path = "/uploads/{upload_id}"
    add(app, "POST", "/uploads", handlers.reserve, operations.POST_UPLOAD, status=201)
    add(app, "POST", f"{path}/finalize", handlers.finalize, operations.FINALIZE_UPLOAD)
    add(app, "POST", f"{path}/copy", handlers.copy, operations.COPY_UPLOAD, status=201)
    add(app, "GET", path, handlers.get, operations.GET_UPLOAD)
    add(app, "DELETE", path, handlers.discard, operations.DISCARD_UPLOAD, status=204)
