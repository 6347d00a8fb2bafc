"""A host of one artifact, whose answers can be cut, and the client that fetches it."""

import asyncio
import hashlib
import io
import tarfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx

from flashpods.client.client import FlashpodsClient
from flashpods.client.config import ClientConfig

DATA = bytes(range(256)) * 20


class Cut(httpx.AsyncByteStream):
    def __init__(self, data: bytes, clean: bool) -> None:
        self.data, self.clean = data, clean

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self.data), 1000):
            yield self.data[start : start + 1000]
        if not self.clean:
            raise httpx.ReadError("cut")


class Host:
    """One artifact. The n-th answer with a body is cut after cuts[n] bytes."""

    def __init__(
        self,
        data: bytes = DATA,
        *,
        name: str = "a.bin",
        kind: str = "file",
        sha256: str | None = "",
        etag: str | None = '"v1"',
        cuts: tuple[int, ...] | list[int] = (),
        clean: bool = False,
    ) -> None:
        self.data, self.name, self.kind, self.etag = data, name, kind, etag
        self.sha256 = hashlib.sha256(data).hexdigest() if sha256 == "" else sha256
        self.cuts, self.clean = list(cuts), clean
        self.size = len(data)
        self.ranges: list[str | None] = []
        self.paths: list[bytes] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.paths.append(request.url.raw_path)
        if request.url.path.endswith("/artifacts"):
            row = {"name": self.name, "type": self.kind, "size_bytes": self.size}
            row["sha256"] = None if self.kind == "directory" else self.sha256
            return httpx.Response(200, json={"artifacts": [row]})
        wanted = request.headers.get("Range")
        self.ranges.append(wanted)
        headers = {} if self.etag is None else {"ETag": self.etag}
        status, body = 200, self.data
        if wanted and request.headers.get("If-Range") == self.etag and self.kind == "file":
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            status, body = 206, self.data[start:]
            headers["Content-Range"] = f"bytes {start}-{len(self.data) - 1}/{len(self.data)}"
        if self.cuts:
            body = body[: self.cuts.pop(0)]
            return httpx.Response(status, headers=headers, stream=Cut(body, self.clean))
        return httpx.Response(status, headers=headers, stream=Cut(body, True))


async def nap(seconds: float) -> None:
    await asyncio.sleep(0)


def client(host: Callable[[httpx.Request], httpx.Response]) -> FlashpodsClient:
    config = ClientConfig(token="t")
    return FlashpodsClient(config, transport=httpx.MockTransport(host), sleep=nap)


async def fetch(host: Host, dest: Path | str, name: str = "a.bin", **kwargs: Any) -> Path:
    async with client(host) as c:
        return await c.download("j", name, dest, **kwargs)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    return info


TREE = tar(
    (member("site", tarfile.DIRTYPE), b""),
    (member("site/index.html"), b"hello"),
    (member("site/l", tarfile.SYMTYPE, "index.html"), b""),
)
