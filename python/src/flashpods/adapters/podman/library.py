"""podman-py, for what is off a job's path: it is synchronous, so it runs in threads of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeVar

import podman
from podman.errors import APIError, PodmanError
from requests.exceptions import RequestException

from flashpods.adapters.podman.cgroups import controllers_below
from flashpods.adapters.podman.rest import one_line
from flashpods.adapters.podman.spec import Engine
from flashpods.config import Podman
from flashpods.errors import Unavailable

THREADS: Final = 2
LABEL_KEEP: Final = "flashpods-keep"

T = TypeVar("T")


class Library:
    """Asks the engine about itself through podman-py."""

    def __init__(self, settings: Podman) -> None:
        """Open nothing yet; :meth:`probe` makes a client a call, because clients are not shared."""
        self._settings = settings
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="podman-py")

    async def probe(self) -> Engine:
        """Return the engine's version, user and controllers; 20 to 400 ms here.

        Raises:
            Unavailable: it does not answer within ``call_seconds``.
        """
        return engine_from(await self._run(lambda client: client.info()), self._settings)

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
            client: Any = podman.PodmanClient(
                base_url=f"http+unix://{self._settings.socket}", timeout=seconds
            )
            with client:
                return work(client)

        try:
            async with asyncio.timeout(seconds):
                return await asyncio.get_running_loop().run_in_executor(self._threads, act)
        except TimeoutError:
            raise Unavailable(f"Podman did not answer podman-py within {seconds:g} s") from None
        except (PodmanError, RequestException, OSError) as e:
            raise Unavailable(f"Podman does not answer podman-py: {one_line(e)}") from e


def _remove_image(client: Any, *, image_id: str) -> int:
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


def engine_from(info: dict[str, Any], settings: Podman) -> Engine:
    """Read ``GET /libpod/info``.

    Container id 0 of a rootless engine is the user it runs as. The controllers are what the
    service's own cgroup has; those of the configured parent are added, because a service in a
    subgroup sees its own none before the first container.

    Raises:
        Unavailable: what answers is not a rootless Podman as we know it.
    """
    try:
        host = info["host"]
        maps = host["idMappings"]
        uid = next(m["host_id"] for m in maps["uidmap"] if m["container_id"] == 0)
        gid = next(m["host_id"] for m in maps["gidmap"] if m["container_id"] == 0)
        controllers = frozenset(host.get("cgroupControllers") or ())
        version = str(info["version"]["Version"])
    except (KeyError, TypeError, StopIteration):
        raise Unavailable(
            "Podman's info has no id mappings: the service must run rootless, as a user with a "
            "range in /etc/subuid"
        ) from None
    if settings.cgroup_parent:
        controllers |= controllers_below(settings.cgroup_parent)
    return Engine(version=version, uid=uid, gid=gid, controllers=controllers)
