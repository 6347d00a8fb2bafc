"""Bodies of files: so many at once, and whoever gets no place leaves nothing open."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from typing import Any

import pytest

from flashpods.api.download import FileBody, IteratorBody
from flashpods.bulkhead import Bulkhead
from flashpods.errors import Unavailable

SCOPE = {"type": "http", "method": "GET"}


def places(count: int) -> Bulkhead:
    return Bulkhead(count, seconds=0.01, work="others download")


async def staying() -> Any:
    """Receive nothing: the client stays."""
    await asyncio.Event().wait()


class Client:
    """Takes what is sent, once it may."""

    def __init__(self) -> None:
        self.may = asyncio.Event()
        self.started = asyncio.Event()
        self.got: list[Any] = []

    async def send(self, message: Any) -> None:
        self.got.append(message)
        if message["type"] == "http.response.start":
            self.started.set()
        else:
            await self.may.wait()

    @property
    def data(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.got)


async def test_one_that_gets_no_place_is_refused_before_it_begins() -> None:
    shared, first, second = places(1), Client(), Client()
    files = [io.BytesIO(b"0123456789") for _ in range(2)]
    bodies = [FileBody(file, (2, 7), 206, [], shared) for file in files]
    slow = asyncio.create_task(bodies[0](SCOPE, staying, first.send))
    await first.started.wait()
    with pytest.raises(Unavailable, match="others download") as refused:
        await bodies[1](SCOPE, staying, second.send)
    assert (refused.value.status, refused.value.headers) == (503, {"Retry-After": "5"})
    assert second.got == []
    assert files[1].closed
    first.may.set()
    await slow
    assert first.data == b"23456"
    assert files[0].closed
    third = Client()  # the place is free again
    third.may.set()
    await FileBody(io.BytesIO(b"abc"), (0, 3), 200, [], shared)(SCOPE, staying, third.send)
    assert third.data == b"abc"


async def test_a_place_is_free_again_after_a_failure() -> None:
    shared = places(1)

    def chunks() -> Iterator[bytes]:
        yield b"one"
        raise OSError("the disk")

    client = Client()
    client.may.set()
    with pytest.raises(OSError, match="the disk"):
        await IteratorBody(chunks(), [], shared)(SCOPE, staying, client.send)
    async with shared.place():
        pass


async def test_who_asks_for_the_head_needs_no_place() -> None:
    shared, client = places(1), Client()
    client.may.set()
    async with shared.place():
        file = io.BytesIO(b"abc")
        body = FileBody(file, (0, 3), 200, [], shared)
        await body({"type": "http", "method": "HEAD"}, staying, client.send)
    assert client.data == b""
    assert file.closed
