"""The most that a tree holds while it is written to."""

from __future__ import annotations

import asyncio
from pathlib import Path

import support


class Peak:
    """The most that a tree has held, looked at all the time by a process of its own."""

    CODE = """
import os, select, sys
def look():
    size = count = 0
    for _, d, f, fd in os.fwalk(sys.argv[1]):
        count += len(d) + len(f)
        for n in f[:2000]:
            try:
                size += os.stat(n, dir_fd=fd, follow_symlinks=False).st_size
            except OSError:
                pass
    return size, count
peak = files = 0
while True:
    try:
        size, count = look()
        peak, files = max(peak, size), max(files, count)
    except FileNotFoundError:
        pass
    if select.select([0], [], [], 0.01)[0]:
        break
print(peak, files)
"""

    def __init__(self, tree: Path) -> None:
        self.bytes = self.files = 0
        self._tree = tree

    async def __aenter__(self) -> Peak:
        self._process = await asyncio.create_subprocess_exec(
            *("python3", "-c", self.CODE, str(self._tree)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        async with asyncio.timeout(support.SECONDS):
            out = (await self._process.communicate(b""))[0]
        self.bytes, self.files = map(int, out.split())
