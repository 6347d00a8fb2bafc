"""Finding the lines of a log that matter. Standard library only: it also runs as a program.

A model's regular expression may take for ever on a line (backtracking), and Python's ``re`` holds
the interpreter meanwhile. So the search runs in a child process, which the kernel ends when it has
used its CPU time: the query is the first line of its standard input, the log is the rest, the
answer is one JSON object.
"""

from __future__ import annotations

import json
import re
import resource
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Final

__all__ = ["FAILURE", "Query", "Result", "compile_pattern", "main", "search"]

MAX_LINE: Final = 2000  # characters of a line that are looked at
SHOWN_LINE: Final = 400  # characters of a line that are shown
MAX_LINES: Final = 400  # lines shown in all
MAX_CONTEXT: Final = 50
CPU_SECONDS: Final = 10  # between two pieces of a log
PIECE_LINES: Final = 2000  # at most 4 MB, which takes less than one

# How compilers, test runners, shells and kernels begin to tell of a failure.
FAILURE: Final = "|".join(
    (
        r"\b(?:fatal )?error(?:\[\w+\])?:",
        r"\bERROR\b",
        r"\bFAIL(?:ED|URE)?\b",
        r"^E  ",
        r"Traceback \(most recent call last\)",
        r"\b\w+(?:Error|Exception)\b(?::| at )",
        r"\bpanicked at\b",
        r"^panic: ",
        r"^fatal: ",
        r"^--- FAIL",
        r"\bAssertion .* failed",
        r"\bundefined reference\b",
        r"\*\*\* \[?.*(?:Error|Stop)",
        r"npm (?:ERR!|error)",
        r"command not found",
        r": not found$",
        r"No such file or directory",
        r"Permission denied",
        r"Segmentation fault",
        r"\bcore dumped\b",
        r"Out of memory",
        r"Killed$",
    )
)
_STAMP: Final = re.compile(r"^\[\d\d:\d\d:\d\d\.\d{3}\] ")


@dataclass(frozen=True, slots=True)
class Query:
    """What to look for: a regular expression, or None for the first failure."""

    pattern: str | None = None
    ignore_case: bool = False
    before: int = 5
    after: int = 15
    most: int = 5  # matches that are shown


@dataclass(slots=True)
class Result:
    """What was found. An excerpt is (first line, last line, lines)."""

    matches: int = 0
    shown: int = 0
    lines: int = 0
    excerpts: list[tuple[int, int, list[str]]] = field(default_factory=list)
    tail: list[str] = field(default_factory=list)  # the last lines, if nothing matched


def compile_pattern(query: Query) -> re.Pattern[str]:
    """Return the expression. Raises ``re.error``."""
    flags = re.IGNORECASE if query.ignore_case else 0
    return re.compile(FAILURE if query.pattern is None else query.pattern, flags)


def search(query: Query, lines: Iterable[str]) -> Result:
    """Return the first matches with the lines around them; overlapping excerpts are one.

    Lines are matched without their times. Memory is bounded, whatever the log's size.
    """
    pattern = compile_pattern(query)
    result = Result()
    recent: deque[str] = deque(maxlen=max(query.before, 30))
    open_until = 0  # the last line that belongs to the open excerpt
    total = 0
    for number, raw in enumerate(lines, 1):
        line = _STAMP.sub("", raw.rstrip("\r\n"))[:MAX_LINE]
        result.lines = number
        found = pattern.search(line) is not None
        result.matches += found
        show = found and result.shown < query.most and total < MAX_LINES
        if show:
            result.shown += 1
            if number > open_until:
                total += _open(result, number, recent, query.before)
            open_until = number + query.after
        if result.excerpts and number <= open_until and total < MAX_LINES:
            first, _, text = result.excerpts[-1]
            text.append(line[:SHOWN_LINE])
            result.excerpts[-1] = (first, number, text)
            total += 1
        recent.append(line[:SHOWN_LINE])
    if not result.matches:
        result.tail = list(recent)
    return result


def _open(result: Result, number: int, recent: deque[str], before: int) -> int:
    """Begin an excerpt with the lines before the match that are not shown yet."""
    last = result.excerpts[-1][1] if result.excerpts else 0
    wanted = min(before, len(recent), number - 1 - last)
    lines = list(recent)[len(recent) - wanted :]
    if result.excerpts and number - 1 - last == wanted:  # they touch: one excerpt
        first, _, text = result.excerpts[-1]
        result.excerpts[-1] = (first, number - 1, [*text, *lines])
    else:
        result.excerpts.append((number - wanted, number - 1, lines))
    return wanted


def _allowed(lines: Iterable[str]) -> Iterator[str]:
    """Yield the lines, each piece of them with CPU time of its own."""
    for number, line in enumerate(lines):
        if number % PIECE_LINES == 0:
            used = resource.getrusage(resource.RUSAGE_SELF)
            limit = int(used.ru_utime + used.ru_stime) + 1 + CPU_SECONDS
            hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
            if hard == resource.RLIM_INFINITY or limit < hard:
                resource.setrlimit(resource.RLIMIT_CPU, (limit, hard))
        yield line


def main() -> int:
    """Answer the query on standard input; SIGXCPU ends it where it does not get on."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # SIGXCPU would leave one, with a job's log
    sys.stdin.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr] # a file
    raw: dict[str, Any] = json.loads(sys.stdin.readline())
    result = search(Query(**raw), _allowed(sys.stdin))
    sys.stdout.write(json.dumps(asdict(result)))
    return 0
