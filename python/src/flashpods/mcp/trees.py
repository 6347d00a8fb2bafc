"""The files of a batch: pushed once, then copied on the host for each job but the last.

A job takes its upload, so a second one needs another. The host copies a finalized upload faster
than it could come again over the tunnel; a copy is made only when a job is about to be started, so
that at most one waits.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from flashpods.client.errors import ClientError
from flashpods.mcp import spawning
from flashpods.mcp.progress import Progress
from flashpods.mcp.schemas import Files

if TYPE_CHECKING:
    from flashpods.client import FlashpodsClient  # loads httpx

__all__ = ["Trees"]

_GONE: Final = frozenset({"upload_not_found", "upload_expired", "upload_already_consumed"})


class Trees:
    """Hands out an upload for each job; without files, None."""

    def __init__(self, client: FlashpodsClient, files: Files | None, progress: Progress) -> None:
        """Push nothing yet."""
        self._client = client
        self._files = files
        self._progress = progress
        self._source: str | None = None
        self._ready: str | None = None  # handed out, not known to be a job's
        self.sent_bytes: int | None = None
        self.usable = files is None  # whether a push has succeeded

    async def take(self, *, last: bool) -> str | None:
        """Return an upload that no job has; the same again until :meth:`used`.

        Raises:
            ClientError: the push, or the copy on the host, failed.
        """
        if self._files is None:
            return None
        if self._ready is not None:
            return self._ready
        source = self._source or await self._push(self._files)
        if last:
            self._ready, self._source = source, None
            return self._ready
        try:
            self._ready = (await self._client.copy_upload(source)).upload_id
        except ClientError as error:
            if error.code not in _GONE:
                raise
            # Its time was over: push again, which sends only what changed.
            source = await self._push(self._files)
            self._ready = (await self._client.copy_upload(source)).upload_id
        return self._ready

    async def _push(self, files: Files) -> str:
        upload, _ = await spawning.push(self._client, files, self._progress)
        assert upload is not None, "there are files"
        self._source = upload.upload_id
        self.usable = True
        if upload.sent_bytes is not None:
            self.sent_bytes = (self.sent_bytes or 0) + upload.sent_bytes
        return upload.upload_id

    def used(self) -> None:
        """Learn that a job has what was handed out."""
        self._ready = None

    def forget(self) -> bool:
        """Learn that what was handed out is gone; return whether there was something."""
        gone, self._ready = self._ready, None
        return gone is not None

    async def aclose(self) -> None:
        """Give up what no job took."""
        for upload_id in (self._ready, self._source):
            if upload_id is not None:
                with suppress(ClientError):
                    await self._client.delete_upload(upload_id)
        self._ready = self._source = None
