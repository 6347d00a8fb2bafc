"""Images: present, or pulled once for all who wait for the same one."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import quote

from flashpods.adapters.podman.rest import RestClient, one_line
from flashpods.errors import Unavailable
from flashpods.ports import ImageError

Progress = Callable[[str], Awaitable[None]]

LINES: Final = 200  # of progress a pull; the rest is dropped
PRESENT_SECONDS: Final = 30.0
MOST_SEEN: Final = 256  # images remembered as present
LOCAL: Final = "localhost/"

# Podman gives a sentence, not a code. What the network did comes first: Podman tries several
# registries, and one that could not be asked may have the image.
_NETWORK: Final = (
    "dial tcp",
    "no such host",
    "connection refused",
    "connection reset",
    "timeout",
    "tls:",
    "x509",
    "server misbehaving",
    "unexpected eof",
    "toomanyrequests",
)
_ABSENT: Final = (
    "manifest unknown",
    "name unknown",
    "not known to registry",
    "unauthorized",
    "denied",
    "authentication required",
    "did not resolve to an alias",
    "invalid reference format",
    "repository name must be",
    "404 (not found)",
    "no image found in",
    "does not exist",
)


def classify(cause: str) -> str:
    """Return the error code of a failed pull: ``image_not_found`` or ``image_pull_failed``."""
    text = cause.lower()
    if any(mark in text for mark in _NETWORK):
        return "image_pull_failed"
    return "image_not_found" if any(mark in text for mark in _ABSENT) else "image_pull_failed"


class _Pull:
    """One pull under way: its lines so far, and those who wait for it."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.waiters = 0
        self.task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    def say(self, line: str) -> None:
        if line and len(self.lines) < LINES:
            self.lines.append(line)
            self.wake()

    def wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def tell(self, progress: Progress) -> None:
        """Pass every line to one waiter at its own pace until the pull is over."""
        told = 0
        while True:
            changed = self._changed
            while told < len(self.lines):
                told += 1
                await progress(self.lines[told - 1])
            if self.task is None or self.task.done():
                return
            await changed.wait()


class Images:
    """Has images here before containers are made of them."""

    def __init__(self, rest: RestClient, *, idle_seconds: float) -> None:
        """Take the client, and how long a pull may be silent."""
        self._rest = rest
        self._idle_seconds = idle_seconds
        self._pulls: dict[str, _Pull] = {}
        self._seen: dict[str, float] = {}  # image → when it was last known to be present

    def forget(self, image: str) -> None:
        """Ask the engine again next time: a container could not be made of the image."""
        self._seen.pop(image, None)

    async def present(self, image: str) -> bool:
        """Ask the engine, once in :data:`PRESENT_SECONDS`; short names as it resolves them.

        An image that goes meanwhile makes ``create`` fail, which forgets it.

        Raises:
            Unavailable: the engine does not answer, or not to this.
        """
        now = time.monotonic()
        if now - self._seen.get(image, -math.inf) < PRESENT_SECONDS:
            return True
        answer = await self._rest.call("GET", f"/images/{quote(image, safe=':/@')}/exists")
        if answer.ok:
            if len(self._seen) >= MOST_SEEN:
                self._seen.clear()
            self._seen[image] = now
            return True
        if answer.status in (400, 404):
            return False
        raise Unavailable(f"Podman cannot look for the image {image}: {answer.message}")

    async def ensure(self, image: str, progress: Progress) -> None:
        """Have the image here; concurrent calls for one image join one pull.

        Raises:
            ImageError: ``image_not_found`` or ``image_pull_failed``.
            Unavailable: the engine does not answer.
        """
        if await self.present(image):
            return
        if image.startswith(LOCAL):
            raise ImageError("image_not_found", f"the image {image} is not on this host")
        pull = self._pulls.get(image)
        if pull is None:
            pull = self._pulls[image] = _Pull()
            pull.task = asyncio.create_task(self._pull(image, pull), name=f"pull {image}")
            pull.task.add_done_callback(lambda _: self._over(image, pull))
        assert pull.task is not None
        pull.waiters += 1
        try:
            await pull.tell(progress)
            await asyncio.shield(pull.task)
        finally:
            pull.waiters -= 1
            if not pull.waiters:
                self._forget_pull(image, pull)  # who comes before it has ended begins anew
                pull.task.cancel()  # nobody wants it any more; a no-op when it is done

    async def close(self) -> None:
        """Give up the pulls under way; the engine stops them with the connection."""
        tasks = [p.task for p in self._pulls.values() if p.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _forget_pull(self, image: str, pull: _Pull) -> None:
        if self._pulls.get(image) is pull:
            del self._pulls[image]

    def _over(self, image: str, pull: _Pull) -> None:
        self._forget_pull(image, pull)
        pull.wake()
        if pull.task and not pull.task.cancelled():
            pull.task.exception()  # taken, though its waiters may all have gone

    async def _pull(self, image: str, pull: _Pull) -> None:
        cause = ""
        query = {"reference": image, "policy": "missing"}
        try:
            async for status, line in self._rest.lines(
                "POST", "/images/pull", query=query, idle_seconds=self._idle_seconds
            ):
                said, error = _read(status, line)
                cause = error or cause
                pull.say(said)
        except Unavailable as e:
            if "no progress" not in e.message:
                raise
            cause = e.message
        if cause:
            raise ImageError(classify(cause), f"cannot pull {image}: {cause}")


def _read(status: int, line: bytes) -> tuple[str, str]:
    """Return (progress, error) of a line of the pull's report, each one line and cut."""
    if not line.strip():
        return "", "" if status < 300 else f"HTTP {status}"
    try:
        report = json.loads(line)
    except ValueError:
        return "", one_line(line.decode(errors="replace")) if status >= 300 else ""
    if not isinstance(report, dict):
        return "", ""
    error = report.get("error") or (report.get("message") if status >= 300 else "")
    return one_line(report.get("stream") or ""), one_line(error or "")
