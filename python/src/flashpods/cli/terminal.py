r"""Showing text that a job or a host chose, without letting it steer the terminal.

To a terminal: colours (SGR, ECMA-48 8.3.117) pass, every other control sequence goes: cursor
movement, window titles, clipboard writes (OSC 52), C1 controls, overprinting by carriage return,
and the Unicode controls that reorder text. To a pipe or a file: the bytes as the job wrote them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import BinaryIO, Final

__all__ = ["LogWriter", "plain", "use_colour", "visible"]

_SEQUENCE: Final = re.compile(
    r"\x1b\[[0-?]*[ -/]*(?:[@-~]|$)"  # CSI
    r"|\x9b[0-?]*[ -/]*(?:[@-~]|$)"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d\x9e\x9f]).*?(?:\x07|\x1b\\|\x9c|$)"  # OSC, DCS, SOS, PM, APC
    r"|\x1b[ -/]*[0-~]?"  # every other escape
)
_SGR: Final = re.compile(r"\x1b\[[0-9;:]*m\Z")
_CONTROL: Final = re.compile(
    r"[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
)
_PREFIX: Final = re.compile(r"\[\d\d:\d\d:\d\d\.\d{3}\] ")
DIM: Final = "\x1b[2m"
RESET: Final = "\x1b[0m"


def use_colour(stream_is_tty: bool, env: Mapping[str, str] | None = None) -> bool:
    """Return whether to colour: a terminal, and neither NO_COLOR nor TERM=dumb."""
    env = os.environ if env is None else env
    return stream_is_tty and not env.get("NO_COLOR") and env.get("TERM") != "dumb"


def visible(line: str, *, colour: bool) -> str:
    """Return one line (no newline) as it may go to a terminal."""
    if "\r" in line:  # a progress bar redraws itself: its last picture is the line
        line = next((part for part in reversed(line.split("\r")) if part), "")
    if line.isprintable():
        return line

    def keep(found: re.Match[str]) -> str:
        return found[0] if colour and _SGR.match(found[0]) else ""

    cleaned = _SEQUENCE.sub(keep, line)
    cleaned = _CONTROL.sub("", cleaned)
    return cleaned + RESET if "\x1b" in cleaned else cleaned


def plain(value: object) -> str:
    """Return a value as one safe line without colours, for tables and messages."""
    return visible(str(value).replace("\r", " ").replace("\n", " "), colour=False)


class LogWriter:
    """Writes a job's log, whole lines at a time."""

    def __init__(self, stream: BinaryIO, *, tty: bool, colour: bool, timestamps: bool) -> None:
        """Build it.

        Args:
            stream: where the bytes go.
            tty: whether a terminal shows them.
            colour: whether colours may pass; only for a terminal.
            timestamps: whether the ``[HH:MM:SS.mmm]`` of each line is shown.
        """
        self._stream = stream
        self._tty = tty
        self._colour = colour
        self._timestamps = timestamps

    def write(self, text: str) -> None:
        """Write lines and flush.

        Raises:
            BrokenPipeError: the reader has gone.
        """
        if self._timestamps and not self._tty:
            shown = text
        else:
            # Only LF ends a log line; str.splitlines would also split at U+2028 and the like.
            *lines, rest = text.split("\n")
            shown = "".join(f"{self._line(line)}\n" for line in lines)
            shown += self._line(rest) if rest else ""
        self._stream.write(shown.encode("utf-8", "replace"))
        self._stream.flush()

    def _line(self, line: str) -> str:
        prefix = found[0] if (found := _PREFIX.match(line)) else ""
        text = line[len(prefix) :]
        if self._tty:
            text = visible(text, colour=self._colour)
        if not self._timestamps:
            return text
        return f"{DIM}{prefix}{RESET}{text}" if prefix and self._colour else prefix + text
