"""Bringing an artifact home: whole, verified, and nowhere but where the caller said.

The bytes go to a file of a name nobody can guess beside the target, opened with O_EXCL and
O_NOFOLLOW beneath an open directory, and are renamed over the target when they are complete. A
symlink planted at the target is thereby replaced, never followed. The host's names are not
trusted: a name is one component or it is refused.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import secrets
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final
from urllib.parse import quote

import httpx

from flashpods.client.errors import ClientError, DownloadError, HostUnreachable
from flashpods.client.http import Http
from flashpods.client.models import Artifact
from flashpods.client.target import Target, check_name, open_target

__all__ = ["OnBytes", "PartFile", "Target", "check_name", "download_to", "open_target"]

BUFFER_BYTES: Final = 1 << 20
SILENCE_SECONDS: Final = 60.0
RECONNECTS: Final = 5  # in a row without a byte
MAX_TAR_BYTES: Final = 8 << 30  # the host keeps at most 2 GB a job; a stream without end is none

OnBytes = Callable[[int, int | None], None]  # bytes so far, bytes in all if known


class PartFile:
    """The incomplete file beside the target. Its methods block; call them in a thread.

    A cancelled caller leaves such a thread behind for a moment, so a lock keeps :meth:`close` from
    taking the descriptor from under it; the number might be another file's by then.
    """

    def __init__(self, target: Target) -> None:
        """Create it: new, with the user's umask, following no link."""
        self._directory_fd = target.directory_fd
        self.name = f".flashpods-{secrets.token_hex(8)}.part"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(self.name, flags, 0o666, dir_fd=self._directory_fd)
        self.digest = hashlib.sha256()
        self.size = 0
        self._lock = threading.Lock()

    def write(self, data: bytes) -> None:
        """Append; nothing happens once it is closed."""
        with self._lock:
            if self._fd < 0:
                return
            self.digest.update(data)
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]
            self.size += len(data)

    def restart(self) -> None:
        """Forget all bytes; nothing happens once it is closed."""
        with self._lock:
            if self._fd < 0:
                return
            os.ftruncate(self._fd, 0)
            os.lseek(self._fd, 0, os.SEEK_SET)
            self.digest = hashlib.sha256()
            self.size = 0

    def tail(self, count: int) -> bytes:
        """Return the last ``count`` bytes."""
        return os.pread(self._fd, count, max(0, self.size - count))

    def reader(self) -> int:
        """Return a new file descriptor at the file's beginning."""
        os.lseek(self._fd, 0, os.SEEK_SET)
        return os.dup(self._fd)

    def keep(self, name: str) -> None:
        """Make it durable and give it its name, over whatever had it; closed: nothing."""
        with self._lock:
            if self._fd < 0:
                return
            os.fsync(self._fd)
            at = self._directory_fd
            os.rename(self.name, name, src_dir_fd=at, dst_dir_fd=at)
            self.name = ""

    def close(self) -> None:
        """Close it; remove it unless it was kept."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
        if self.name:
            with suppress(FileNotFoundError):
                os.unlink(self.name, dir_fd=self._directory_fd)
            self.name = ""


async def download_to(
    http: Http,
    url_path: str,
    artifact: Artifact,
    part: PartFile,
    on_bytes: OnBytes | None = None,
) -> None:
    """Fill ``part`` with the artifact, resuming after interruptions, and verify it.

    A file is asked for again from where it broke off, with the entity tag of its first answer, so
    that a changed file starts over. A directory's tar stream has no ranges and starts over.

    Args:
        http: the host.
        url_path: ``/jobs/{id}/artifacts``.
        artifact: its row in the list.
        part: where the bytes go.
        on_bytes: is told of progress.

    Raises:
        DownloadError: ``checksum_mismatch``, ``download_failed``.
        ClientError: the host refused, or can't be reached.
    """
    path = f"{url_path}/{quote(artifact.name, safe='')}"
    transfer = _Transfer(http, path, artifact, part, on_bytes)
    try:
        await transfer.run()
        await asyncio.to_thread(_verify, artifact, part)
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        raise DownloadError(
            "download_disk_full" if full else "download_failed",
            f"cannot write the artifact here: {error.strerror}",
        ) from error


class _Transfer:
    def __init__(
        self,
        http: Http,
        path: str,
        artifact: Artifact,
        part: PartFile,
        on_bytes: OnBytes | None,
    ) -> None:
        self._http = http
        self._path = path
        self._whole = artifact.type == "directory"
        self._limit = None if self._whole else artifact.size_bytes
        self._part = part
        self._on_bytes = on_bytes
        self._etag: str | None = None

    async def run(self) -> None:
        retries = self._http.retries(RECONNECTS)
        while True:
            before = self._part.size
            try:
                await self._attempt()
            except ClientError as error:
                if isinstance(error, DownloadError):
                    raise
                if self._part.size > before:
                    retries = self._http.retries(RECONNECTS)
                await self._http.pause(retries, error)
            else:
                return

    async def _attempt(self) -> None:
        part = self._part
        headers: dict[str, str] = {}
        if part.size and (self._whole or self._etag is None):
            await asyncio.to_thread(part.restart)
        elif part.size:
            assert self._etag is not None
            headers = {"Range": f"bytes={part.size}-", "If-Range": self._etag}
        if part.size and part.size == self._limit:
            return  # cut after its last byte: a range from there would be unsatisfiable (416)
        async with self._http.stream(
            "GET", self._path, headers=headers, read_seconds=SILENCE_SECONDS
        ) as response:
            await self._position(response)
            await self._take(response)
        if self._limit is not None and part.size < self._limit:
            raise HostUnreachable("the artifact's stream ended early")

    async def _position(self, response: httpx.Response) -> None:
        """Make the file end where the answer begins."""
        tag = response.headers.get("ETag")
        # RFC 9110, 13.1.5: If-Range takes no weak tag.
        self._etag = tag if tag and not tag.startswith("W/") else None
        if response.status_code != 206:
            if self._part.size:
                await asyncio.to_thread(self._part.restart)
            return
        start = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
        if start != str(self._part.size):
            raise DownloadError("download_failed", "the host answered another range than asked for")

    async def _take(self, response: httpx.Response) -> None:
        buffer = bytearray()
        try:
            async for chunk in response.aiter_bytes():
                buffer += chunk
                most = MAX_TAR_BYTES if self._limit is None else self._limit
                if self._part.size + len(buffer) > most:
                    buffer.clear()
                    raise DownloadError("download_failed", f"the host sends over {most} bytes")
                if len(buffer) >= BUFFER_BYTES:
                    await self._flush(buffer)
        finally:
            # What came before a cut is kept: the next try begins behind it.
            await self._flush(buffer)

    async def _flush(self, buffer: bytearray) -> None:
        if not buffer:
            return
        data = bytes(buffer)
        buffer.clear()
        await asyncio.to_thread(self._part.write, data)
        if self._on_bytes is not None:
            self._on_bytes(self._part.size, self._limit)


def _verify(artifact: Artifact, part: PartFile) -> None:
    if artifact.type == "directory":
        # A tar archive ends in two blocks of zeros (POSIX pax, "ustar Interchange Format").
        if part.size < 1024 or part.tail(1024).strip(b"\0"):
            raise DownloadError("download_failed", "the tar stream of the directory has no end")
        return
    if part.size != artifact.size_bytes:
        raise DownloadError(
            "download_failed", f"got {part.size} bytes of {artifact.size_bytes}; try again"
        )
    if artifact.sha256 is not None and part.digest.hexdigest() != artifact.sha256.lower():
        raise DownloadError(
            "checksum_mismatch",
            f"the sha256 of {artifact.name[:80]!r} is not the listed one; nothing was kept",
        )
