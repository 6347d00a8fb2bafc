"""podman-py, for what is off a job's path: it is synchronous, so each call has its own thread.

It is imported when it is first used, in such a thread: the API never uses it, and would need 190 ms
more for each start. The threads are daemons: the interpreter joins all others at its end, those of
a pool too, and a call to an engine that stands still would keep a process that is told to stop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from threading import Thread
from typing import Any, Final, TypeVar, cast

from flashpods.adapters.podman.rest import one_line
from flashpods.config import Podman
from flashpods.errors import Unavailable

LABEL_KEEP: Final = "flashpods-keep"

T = TypeVar("T")


class Library:
    """Tends the engine's images through podman-py."""

    def __init__(self, settings: Podman) -> None:
        """Open nothing yet; each call makes a client of its own, because they are not shared."""
        self._settings = settings

    async def trim_images(self, budget_bytes: int) -> int:
        """Remove the oldest unused images beyond the budget; return how many went.

        The engine itself refuses to remove one that a container has come to use meanwhile.

        Raises:
            Unavailable: the engine does not answer.
        """
        listed = await self._run(lambda client: [i.attrs for i in client.images.list()])
        gone = 0
        for image_id in excess(listed, budget_bytes):
            gone += await self._run(partial(_remove_image, image_id=image_id))
        return gone

    async def _run(self, work: Callable[[Any], T]) -> T:
        """Do it in a thread, with a client of its own; podman-py's default is no timeout at all."""
        seconds = self._settings.call_seconds

        def act() -> T:
            import podman  # noqa: PLC0415 - late: see the module
            from podman.errors import PodmanError  # noqa: PLC0415

            client: Any = podman.PodmanClient(
                base_url=f"http+unix://{self._settings.socket}", timeout=seconds
            )
            try:
                with client:
                    return work(client)
            except (PodmanError, OSError) as e:
                raise Unavailable(f"Podman does not answer podman-py: {one_line(e)}") from e

        try:
            async with asyncio.timeout(seconds):
                return await _in_daemon(act)
        except TimeoutError:
            raise Unavailable(f"Podman did not answer podman-py within {seconds:g} s") from None


async def _in_daemon(act: Callable[[], T]) -> T:
    """Run it in a thread that nobody waits for, neither a cancelled caller nor the interpreter."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: Exception | None) -> None:
        if future.done():
            return  # the caller has left
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(cast(T, result))

    def run() -> None:
        result, error = None, None
        try:
            result = act()
        except Exception as e:  # noqa: BLE001 - whatever it is, it is the caller's
            error = e
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(settle, result, error)

    Thread(target=run, name="podman-py", daemon=True).start()
    return await future


def _remove_image(client: Any, *, image_id: str) -> int:
    from podman.errors import APIError  # noqa: PLC0415 - late: see the module

    try:
        client.images.remove(image_id)
    except APIError:
        return 0  # in use by now, or gone
    return 1


def excess(images: list[dict[str, Any]], budget_bytes: int) -> list[str]:
    """Choose what to remove: the oldest images without container, until the rest fits.

    Shared layers count for each image, so the disk holds less than the sum. What is made here
    (``localhost/``) or labelled ``flashpods-keep=true`` stays, because nothing could bring it back.

    Args:
        images: items of ``GET /libpod/images/json``.
        budget_bytes: what all images together may take.
    """
    total = sum(i["Size"] for i in images)
    chosen = []
    for image in sorted(images, key=lambda i: int(i["Created"])):
        if total <= budget_bytes:
            break
        local = any(t.startswith("localhost/") for t in image.get("RepoTags") or ())
        kept = (image.get("Labels") or {}).get(LABEL_KEEP) == "true"
        if not (image.get("Containers") or local or kept):
            total -= image["Size"]
            chosen.append(image["Id"])
    return chosen
