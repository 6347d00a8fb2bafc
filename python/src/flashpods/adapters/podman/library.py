"""podman-py, for what is off a job's path: it is synchronous, so it runs in threads of its own.

It is imported when it is first used, in those threads: the API never uses it, and would start a
sixth later for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeVar

from flashpods.adapters.podman.rest import one_line
from flashpods.config import Podman
from flashpods.errors import Unavailable

THREADS: Final = 2
LABEL_KEEP: Final = "flashpods-keep"

T = TypeVar("T")


class Library:
    """Tends the engine's images through podman-py."""

    def __init__(self, settings: Podman) -> None:
        """Open nothing yet; each call makes a client of its own, because they are not shared."""
        self._settings = settings
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="podman-py")

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

    def close(self) -> None:
        """Let the threads end after what they are at; each call in them has its own timeout."""
        self._threads.shutdown(wait=False, cancel_futures=True)

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
                return await asyncio.get_running_loop().run_in_executor(self._threads, act)
        except TimeoutError:
            raise Unavailable(f"Podman did not answer podman-py within {seconds:g} s") from None


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
