"""What ``--since`` means: pure rules on text, times and the lines of a log.

A log's lines bear a time of day, ``[HH:MM:SS.mmm]``, UTC; their day follows from when the job was
accepted and from midnights passed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final

import typer

__all__ = ["LineFilter", "Since", "parse_since"]

UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_AGO: Final = re.compile(r"(\d{1,6})([smhd])\Z")
_CURSOR: Final = re.compile(r"@(\d{1,15})\Z")
_CLOCK: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?\Z")
_LINE: Final = re.compile(r"\[(\d\d):(\d\d):(\d\d)\.(\d{3})\] ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Since:
    """Where to begin; one of them is set."""

    cursor: int | None = None  # bytes of the log
    ago: timedelta | None = None
    clock: time | None = None  # the last time that it was so late, UTC
    at: datetime | None = None

    def begin(self, now: datetime) -> datetime | None:
        """Return the moment, given the host's time; None for a cursor."""
        if self.ago is not None:
            return now - self.ago
        if self.clock is not None:
            today = datetime.combine(now.date(), self.clock, UTC)
            return today if today <= now else today - timedelta(days=1)
        return self.at


def parse_since(text: str) -> Since:
    """Read the option's value.

    Raises:
        typer.BadParameter: it is none of the four forms.
    """
    if found := _AGO.match(text):
        return Since(ago=timedelta(seconds=int(found[1]) * UNITS[found[2]]))
    if found := _CURSOR.match(text):
        return Since(cursor=int(found[1]))
    if found := _CLOCK.match(text):
        return Since(clock=time(int(found[1]), int(found[2]), int(found[3] or 0)))
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text[:80]!r} is no time: give 90s, 10m, 2h or 1d (ago), 12:30 (UTC), "
            "2026-01-31T12:30:00Z, or @CURSOR",
            param_hint="--since",
        ) from None
    return Since(at=when if when.tzinfo is not None else when.replace(tzinfo=UTC))


class LineFilter:
    """Lets a log's text through from the first line on that is not older than a moment."""

    def __init__(self, begin: datetime, first_day: date) -> None:
        """Build it.

        Args:
            begin: the moment.
            first_day: of the log's first line, UTC.
        """
        self._begin = begin
        self._day = first_day
        self._last = time.min
        self._open = False

    def take(self, text: str) -> str:
        """Return what passes of some whole lines."""
        if self._open:
            return text
        lines = text.split("\n")
        for place, line in enumerate(lines):
            if self._reaches(line):
                self._open = True
                return "\n".join(lines[place:])
        return ""

    def _reaches(self, line: str) -> bool:
        found = _LINE.match(line)
        if found is None:
            return False
        hour, minute, second, milli = (int(part) for part in found.groups())
        try:
            at = time(hour, minute, second, milli * 1000)
        except ValueError:
            return False
        if _seconds(at) < _seconds(self._last) - 12 * 3600:
            self._day += timedelta(days=1)  # midnight; less than half a day back is disorder
        self._last = at
        return datetime.combine(self._day, at, UTC) >= self._begin


def _seconds(at: time) -> int:
    return at.hour * 3600 + at.minute * 60 + at.second
