"""The :class:`~flashpods.ports.DiskMeter`: statvfs(3), a walk in our user namespace, and /proc."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Final

from flashpods.adapters.files.tree_helper import TreeHelper
from flashpods.adapters.podman.unlinked import unlinked_bytes
from flashpods.jobs.model import Job, JobType
from flashpods.ports import ContainerState, DiskFill, DiskUse

WALK_SECONDS: Final = 25.0  # after that what was counted so far is the answer
GRACE_SECONDS: Final = 5.0  # and after these the helper hangs in a call, and is ended


class SystemDiskMeter:
    """Measures with one helper process, started when it is first needed and after it died."""

    def __init__(self, *, staging: Path, work: Path, seconds: float = WALK_SECONDS) -> None:
        """Start nothing yet.

        Args:
            staging: holds each job's ``/artifacts``, by the job's id.
            work: holds each job's ``/work``, likewise.
            seconds: how long a job's trees are walked.
        """
        self._staging = staging
        self._work = work
        self._seconds = seconds
        self._layers: Path | None = None  # where the engine keeps them, once one was seen
        self._helper = TreeHelper()

    async def close(self) -> None:
        """End the helper."""
        await self._helper.close()

    def fills(self) -> dict[int, DiskFill]:
        """See :meth:`flashpods.ports.DiskMeter.fills`."""
        found = {}
        for path in (self._staging, self._work, self._layers):
            if path is None:
                continue
            with contextlib.suppress(OSError):  # another's to report; the next look sees it again
                info, device = os.statvfs(path), path.stat().st_dev
                taken = info.f_blocks - info.f_bfree
                found[device] = DiskFill(
                    bytes_used=taken * info.f_frsize,
                    bytes_total=(taken + info.f_bavail) * info.f_frsize,
                    entries_used=info.f_files - info.f_ffree,
                    entries_total=info.f_files,
                )
        return found

    async def held(self, job: Job, container: ContainerState, *, most: int) -> DiskUse:
        """See :meth:`flashpods.ports.DiskMeter.held`."""
        layer = container.layer
        places = [self._staging / job.id, *([layer] if layer is not None else [])]
        if job.type is JobType.AGENT:
            places.append(self._work / job.id)  # a worker cannot write to its own
        if layer is not None:
            self._layers = layer.parent.parent
        where: dict[int, int] = {}
        entries = 0
        whole = True
        for device, size, count, all_of_it in await self._walk(places, most):
            where[device] = where.get(device, 0) + size
            entries += count
            whole = whole and all_of_it
        if container.pid is not None:
            lost = await asyncio.to_thread(unlinked_bytes, container.pid, container.id)
            # Which of its disks they are on is not told apart: most jobs have one.
            device = max(where, key=where.__getitem__, default=0)
            where[device] = where.get(device, 0) + lost
        return DiskUse(where=where, entries=entries, whole=whole)

    async def _walk(self, places: list[Path], most: int) -> list[tuple[int, int, int, bool]]:
        paths = [str(place) for place in places]
        request = {"measure": paths, "most": most, "seconds": self._seconds}
        found = await self._helper.ask(request, seconds=self._seconds + GRACE_SECONDS)
        return [(int(device), int(size), int(count), bool(w)) for device, size, count, w in found]
