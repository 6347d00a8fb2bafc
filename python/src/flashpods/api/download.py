"""Bodies that are read while they are sent: a few chunks ahead, in a thread, never on the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, Final

from starlette.types import Receive, Scope, Send

from flashpods.allocator import PIECE_BYTES
from flashpods.bulkhead import Bulkhead
from flashpods.web.reply import Header

# As many a turn of the thread; with those being sent, at most twice as many in our memory.
CHUNKS: Final = 5


class _Body:
    """Sends chunks until there are no more or the client has left."""

    def __init__(self, status: int, headers: Sequence[Header], places: Bulkhead) -> None:
        self._places = places
        self._ahead: asyncio.Future[list[bytes]] | None = None
        self.status = status
        self.headers = list(headers)

    def _next(self) -> bytes:
        """Return the next chunk, empty at the end; runs in a thread."""
        raise NotImplementedError

    def _several(self) -> list[bytes]:
        """Return the next chunks, none at the end; runs in a thread."""
        found: list[bytes] = []
        while len(found) < CHUNKS and (chunk := self._next()):
            found.append(chunk)
        return found

    def _close(self) -> None:
        """Release what is open; no other call runs then."""
        raise NotImplementedError

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it.

        Raises:
            Unavailable: too many are sent already; nothing is sent of this one.
        """
        start = {"type": "http.response.start", "status": self.status, "headers": self.headers}
        try:
            if scope["method"] == "HEAD":
                await send(start)
            else:
                async with self._places.place():
                    await send(start)
                    await self._chunks_to(send, receive)
            await send({"type": "http.response.body", "body": b""})
        finally:
            await _release(self._ahead, self._close)

    async def _chunks_to(self, send: Send, receive: Receive) -> None:
        loop = asyncio.get_running_loop()
        watcher = asyncio.create_task(_left(receive))
        try:
            self._ahead = loop.run_in_executor(None, self._several)
            while not watcher.done() and (chunks := await asyncio.shield(self._ahead)):
                self._ahead = loop.run_in_executor(None, self._several)
                for chunk in chunks:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
        finally:
            watcher.cancel()


class FileBody(_Body):
    """The bytes of an open file from the span's first up to its second, which it closes."""

    def __init__(
        self,
        file: BinaryIO,
        span: tuple[int, int],
        status: int,
        headers: Sequence[Header],
        places: Bulkhead,
    ) -> None:
        """Take over the file."""
        begin, end = span
        length = (b"content-length", b"%d" % (end - begin))
        super().__init__(status, (*headers, length), places)
        self._file = file
        self._at = begin
        self._end = end
        self._found = False

    def _next(self) -> bytes:
        if self._at >= self._end:
            return b""
        if not self._found:
            self._file.seek(self._at)
            self._found = True
        chunk = self._file.read(min(PIECE_BYTES, self._end - self._at))
        if not chunk:
            raise EOFError("an artifact became shorter while it was sent")
        self._at += len(chunk)
        return chunk

    def _close(self) -> None:
        self._file.close()


class IteratorBody(_Body):
    """Chunks of unknown number, from an iterator, which it closes."""

    def __init__(
        self, chunks: Iterator[bytes], headers: Sequence[Header], places: Bulkhead
    ) -> None:
        """Take over the iterator."""
        super().__init__(200, headers, places)
        self._chunks = chunks

    def _next(self) -> bytes:
        for chunk in self._chunks:
            if chunk:
                return chunk
        return b""

    def _close(self) -> None:
        close: Callable[[], None] | None = getattr(self._chunks, "close", None)
        if close is not None:
            close()


async def _left(receive: Receive) -> None:
    """Return when the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _release(ahead: asyncio.Future[list[bytes]] | None, close: Callable[[], None]) -> None:
    """Close what a thread may still be reading, once it is done, whatever happens to us."""
    if ahead is None or ahead.done():
        if ahead is not None and not ahead.cancelled():
            ahead.exception()  # seen: it has been raised, or nobody reads this chunk any more
        close()
        return

    def done(future: asyncio.Future[list[bytes]]) -> None:
        if not future.cancelled():
            future.exception()
        close()

    ahead.add_done_callback(done)
