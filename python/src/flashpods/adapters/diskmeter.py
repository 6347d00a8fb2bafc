"""The :class:`~flashpods.ports.DiskMeter`: statvfs(3), a walk in our user namespace, and /proc."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any, Final

from flashpods.adapters.files import tree_tool
from flashpods.adapters.podman.unlinked import unlinked_bytes
from flashpods.errors import Unavailable
from flashpods.jobs.model import Job, JobType
from flashpods.ports import ContainerState, DiskFill, DiskUse

WALK_SECONDS: Final = 30.0


class SystemDiskMeter:
    """Measures with one helper process, started when it is first needed and after it died."""

    def __init__(self, *, staging: Path, work: Path) -> None:
        """Start nothing yet.

        Args:
            staging: holds each job's ``/artifacts``, by the job's id.
            work: holds each job's ``/work``, likewise.
        """
        self._staging = staging
        self._work = work
        self._layers: Path | None = None  # where the engine keeps them, once one was seen
        self._helper: asyncio.subprocess.Process | None = None
        self._one = asyncio.Lock()

    async def close(self) -> None:
        """End the helper."""
        if self._helper is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._helper.pid, signal.SIGKILL)  # with the walk that it has forked
            await self._helper.wait()
            self._helper = None

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
        for device, size, count in await self._walk(places, most):
            where[device] = where.get(device, 0) + size
            entries += count
        if container.pid is not None:
            lost = await asyncio.to_thread(unlinked_bytes, container.pid, container.id)
            # Which of its disks they are on is not told apart: most jobs have one.
            device = max(where, key=where.__getitem__, default=0)
            where[device] = where.get(device, 0) + lost
        return DiskUse(where=where, entries=entries)

    async def _walk(self, places: list[Path], most: int) -> list[tuple[int, int, int]]:
        request = json.dumps({"places": [str(place) for place in places], "most": most})
        async with self._one:
            try:
                async with asyncio.timeout(WALK_SECONDS):
                    reply = await self._ask(request)
            except (TimeoutError, OSError, ValueError) as e:
                raise Unavailable(f"cannot measure what a job holds on disk: {e!r}") from e
            finally:
                if self._helper is not None and self._helper.returncode is not None:
                    self._helper = None
        match reply:
            case {"ok": list(found)}:
                return [(int(d), int(b), int(n)) for d, b, n in found]
            case _:
                raise Unavailable(f"cannot measure what a job holds on disk: {reply}")

    async def _ask(self, request: str) -> Any:
        if self._helper is None:
            self._helper = await asyncio.create_subprocess_exec(
                *tree_tool.command("meter"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,
                env={"PATH": os.environ.get("PATH", os.defpath)},  # newuidmap; nothing else of ours
            )
        helper = self._helper
        assert helper.stdin is not None
        assert helper.stdout is not None
        answered = False
        try:
            helper.stdin.write(request.encode() + b"\n")
            await helper.stdin.drain()
            line = await helper.stdout.readline()
            answered = line.endswith(b"\n")
        finally:
            if not answered:  # its next line would answer this request, not the next
                await self.close()
        return json.loads(line)
