"""Durations on the command line: ``90s``, ``10m``, ``2h``, ``7d``."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Final

import typer

__all__ = ["duration"]

_TEXT: Final = re.compile(r"(\d{1,6})([smhd])\Z")
_UNIT: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def duration(text: str) -> timedelta:
    """Return a duration; typer calls it for an option's value.

    Raises:
        typer.BadParameter: it is none.
    """
    found = _TEXT.match(text)
    if found is None:
        raise typer.BadParameter(f"{text!r:.40} is no duration; give one like 90s, 10m, 2h, 7d")
    return timedelta(**{_UNIT[found[2]]: int(found[1])})
