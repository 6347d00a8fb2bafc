"""How full file systems are, as df(1) counts."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


class StatvfsGauge:
    """The real :class:`flashpods.ports.DiskGauge`."""

    def __init__(self, paths: Iterable[Path]) -> None:
        """Watch the file systems of these trees; one that is not there yet counts as its parent."""
        self._paths = tuple(paths)

    def usage(self) -> dict[str, float]:
        """Return tree path → used fraction, 0 to 1.

        As df(1): used blocks over used and available ones; those reserved for root are neither.

        Raises:
            OSError: a file system does not answer statvfs(3).
        """
        return {str(path): _used(path) for path in self._paths}


def _used(path: Path) -> float:
    for place in (path, *path.parents):
        try:
            info = os.statvfs(place)
        except FileNotFoundError:
            continue
        used = info.f_blocks - info.f_bfree
        total = used + info.f_bavail
        return used / total if total else 0.0
    raise FileNotFoundError(path)
