"""The engine's raw output (Podman's ``k8s-file`` driver) turned into the lines of a log.

conmon writes lines ``2026-11-24T09:31:26.123456789+00:00 stdout F text``: ``F`` ends a line, ``P``
is a part of one whose rest follows on the same stream (conmon, ``src/ctr_logging.c``; the format is
CRI's). We write lines ``[09:31:26.123] text``, in UTC, dated by the line's first part.

Everything here is a pure function of the raw bytes, however they are cut into blocks: that is what
lets a restarted process write the same bytes again over what it had written before.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

LINE_BYTES: Final = 256 * 1024
"""A longer line is split there, and a raw line without end is cut there."""

HEAD_BYTES: Final = len(b"[HH:MM:SS.mmm] ")
RAW_HEAD_BYTES: Final = len(b"2026-11-24T09:31:26.123456789+00:00 stdout F ")
NO_HEAD: Final = b"[00:00:00.000] "

_HEADER: Final = re.compile(
    rb"(\d{4}-\d\d-\d\dT)(\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d) (stdout|stderr) ([FP]) "
)
_WHOLE: Final = re.compile(  # conmon's usual header, in UTC
    rb"\d{4}-\d\d-\d\dT(\d\d:\d\d:\d\d\.\d{3})\d{6}\+00:00 std(?:out|err) F "
)
_HEADS_KEPT: Final = 4096


@dataclass(frozen=True, slots=True)
class Pending:
    """The beginning of a line whose end has not come yet."""

    stream: bytes  # b"stdout" or b"stderr"
    head: bytes
    text: bytes


@dataclass(frozen=True, slots=True)
class ParserState:
    """What a parse hands to the next one; a checkpoint holds it."""

    pending: tuple[Pending, ...] = ()  # one a stream at most, in the order they began
    head: bytes = NO_HEAD  # of the last line that came out: dates what has no header


def log_head(at: datetime) -> bytes:
    """Return ``[HH:MM:SS.mmm] `` of an aware time, in UTC."""
    utc = at.astimezone(UTC)
    return b"[%s.%03d] " % (utc.strftime("%H:%M:%S").encode(), utc.microsecond // 1000)


def whole_lines(block: bytes, *, closed: bool) -> int:
    """Return how many bytes of a block, read at the start of a raw line, can be parsed now.

    Args:
        block: up to :data:`LINE_BYTES` bytes.
        closed: nothing more will be written behind the block, should it be shorter than that.
    """
    end = block.rfind(b"\n") + 1
    if end == 0 and (closed or len(block) >= LINE_BYTES):
        return len(block)  # a torn end, or a raw line that no known engine writes
    return end


def parse(block: bytes, state: ParserState) -> tuple[list[bytes], ParserState]:
    """Turn whole raw lines into lines of the log, without their newlines.

    Args:
        block: what :func:`whole_lines` allowed.
        state: what the parse before this one returned.
    """
    raws = block.split(b"\n")
    if block.endswith(b"\n"):
        raws.pop()
    joiner = _Joiner(state)
    pending, out = joiner.pending, joiner.out
    append, heads = out.append, _HEADS
    for raw in raws:
        head = heads[raw[:RAW_HEAD_BYTES]]
        if head and not pending:
            append(head + raw[RAW_HEAD_BYTES:])
        else:
            joiner.take(raw)
    return out, joiner.state()


def flush(state: ParserState) -> list[bytes]:
    """Return the unended lines, as the job's end makes them lines."""
    return [part.head + part.text for part in state.pending]


class _Heads(dict[bytes, bytes]):
    """Raw header of a whole line → the log's head, or empty where the line needs a closer look.

    conmon stamps all lines of one read (8 KiB) alike, so a flood asks for each head a hundred
    times. Two threads may share it: every operation is one of the dictionary's own.
    """

    def __missing__(self, raw: bytes) -> bytes:
        if len(self) >= _HEADS_KEPT:
            self.clear()
        match = _WHOLE.fullmatch(raw)
        head = b"" if match is None else b"[" + match[1] + b"] "
        self[raw] = head
        return head


_HEADS: Final = _Heads()


def _head(match: re.Match[bytes]) -> bytes | None:
    """Return the log's head for a header; None where the time is not one."""
    clock, millis = match[2], (match[3] or b"")[:3].ljust(3, b"0")
    if match[4] not in (b"Z", b"+00:00"):
        try:
            at = datetime.fromisoformat((match[1] + match[2] + match[4]).decode())
            clock = at.astimezone(UTC).strftime("%H:%M:%S").encode()
        except (ValueError, OverflowError):
            return None
    return b"[%s.%s] " % (clock, millis)


class _Joiner:
    """Joins the parts of lines, for the raw lines that are not simply whole."""

    def __init__(self, state: ParserState) -> None:
        self.out: list[bytes] = []
        self.pending = {p.stream: (p.head, bytearray(p.text)) for p in state.pending}
        self._head = state.head

    def take(self, raw: bytes) -> None:
        match = _HEADER.match(raw)
        head = _head(match) if match is not None else None
        if match is None or head is None:  # not the engine's; shown as it is, nothing is dropped
            self.out.append((self.out[-1][:HEAD_BYTES] if self.out else self._head) + raw)
            return
        stream = match[5]
        head, text = self.pending.setdefault(stream, (head, bytearray()))
        text += raw[match.end() :]
        while len(text) > LINE_BYTES:
            end = _character_end(text, LINE_BYTES)
            self.out.append(head + text[:end])
            del text[:end]
        if match[6] == b"F":
            self.out.append(head + text)
            del self.pending[stream]

    def state(self) -> ParserState:
        return ParserState(
            tuple(Pending(s, head, bytes(text)) for s, (head, text) in self.pending.items()),
            self.out[-1][:HEAD_BYTES] if self.out else self._head,
        )


def _character_end(text: bytearray, most: int) -> int:
    """Return the last place up to ``most`` that does not cut a UTF-8 character in two."""
    for end in range(most, most - 4, -1):
        if text[end] & 0xC0 != 0x80:  # the next byte begins a character
            return end
    return most
