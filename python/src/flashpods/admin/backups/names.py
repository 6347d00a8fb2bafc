"""What a backup is called, and which ones stay: rules only.

``db-YYYYMMDD.db`` is a day's copy of the database, ``db-YYYYMMDD.db.zst`` the same once a newer day
has one: the newest can be opened as it is. ``files-YYYYMMDD.tar.zst`` has artifacts and logs. Days
are UTC's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Final

_NAME: Final = re.compile(r"(?P<kind>db|files)-(?P<day>\d{8})\.(?P<rest>db|db\.zst|tar\.zst)\Z")
_RESTS: Final = {"db": {"db", "db.zst"}, "files": {"tar.zst"}}

TEMPORARY: Final = ".new-"  # what is being written begins so; a backup removes what a crash left
PLAIN, PACKED = ".db", ".db.zst"


@dataclass(frozen=True, slots=True)
class Kept:
    """A backup that is there."""

    path: Path
    kind: str  # "db" or "files"
    day: date

    @property
    def packed(self) -> bool:
        """Whether it is compressed."""
        return self.path.name.endswith(".zst")


def database_name(day: date) -> str:
    """Return the name of the day's copy."""
    return f"db-{day:%Y%m%d}{PLAIN}"


def files_name(day: date) -> str:
    """Return the name of the day's archive of artifacts and logs."""
    return f"files-{day:%Y%m%d}.tar.zst"


def parse(path: Path) -> Kept | None:
    """Return what a path in the directory is; None if it is not ours, which then stays."""
    found = _NAME.match(path.name)
    if found is None or found["rest"] not in _RESTS[found["kind"]]:
        return None
    try:
        day = datetime.strptime(found["day"], "%Y%m%d").date()  # noqa: DTZ007 - a day has no zone
    except ValueError:
        return None
    return Kept(path, found["kind"], day)


def kept(directory: Path) -> list[Kept]:
    """Return the backups of a directory, the newest first, a day's plain copy before its packed.

    Raises:
        OSError: it can't be read.
    """
    found = [k for k in map(parse, directory.iterdir()) if k is not None and k.path.is_file()]
    return sorted(found, key=lambda k: (k.day, k.kind == "db", not k.packed), reverse=True)


def days_to_keep(days: Iterable[date], *, daily: int, weekly: int) -> set[date]:
    """Return the days whose backups stay, as restic counts (restic.readthedocs.io, forget).

    The newest ``daily`` days that have one, and the newest day of each of the newest ``weekly``
    weeks (ISO 8601) that have one. A host that was off for a month loses nothing by it.
    """
    newest = sorted(set(days), reverse=True)
    weeks: dict[tuple[int, int], date] = {}
    for day in newest:
        weeks.setdefault(day.isocalendar()[:2], day)
    return {*newest[:daily], *list(weeks.values())[:weekly]}
