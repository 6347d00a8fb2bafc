"""Finding the lines that matter in a log, and expanding a matrix."""

from __future__ import annotations

import asyncio
import gc
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from flashpods.client import FlashpodsClient
from flashpods.client.config import ClientConfig
from flashpods.client.errors import ClientError
from flashpods.mcp import search as searching
from flashpods.mcp.matrix import MOST, Variant, expand
from flashpods.mcp.search import FAILURE, MAX_LINES, Query, search
from flashpods.mcp.tools import output


def log(*lines: str) -> list[str]:
    return [f"[10:00:00.{n % 1000:03}] {line}\n" for n, line in enumerate(lines)]


def test_the_first_failure_with_its_surroundings() -> None:
    lines = log(*(f"line {n}" for n in range(1, 101)), "a.c:1: error: bad", *("x",) * 50)
    result = search(Query(before=2, after=1), lines)
    assert (result.matches, result.shown, result.lines) == (1, 1, 151)
    assert result.excerpts == [(99, 102, ["line 99", "line 100", "a.c:1: error: bad", "x"])]


def test_overlapping_and_touching_excerpts_are_one() -> None:
    lines = log("hit 1", "b", "c", "hit 4", "e", "f", "g", "h", "i", "hit 10")
    result = search(Query("hit", before=1, after=1), lines)
    assert result.excerpts == [
        (1, 5, ["hit 1", "b", "c", "hit 4", "e"]),
        (9, 10, ["i", "hit 10"]),
    ]
    assert search(Query("hit", before=9, after=0), lines).excerpts == [
        (1, 10, [line.split("] ")[1].strip() for line in lines])
    ]


def test_bounds() -> None:
    lines = log(*(f"hit {n} " + "y" * 3000 for n in range(10_000)))
    result = search(Query("hit", before=50, after=50, most=50), lines)
    assert (result.matches, result.shown) == (10_000, 50)
    shown = [line for _, _, text in result.excerpts for line in text]
    assert len(shown) <= MAX_LINES
    assert max(map(len, shown)) == 400
    result = search(Query("hit", most=2), lines)
    assert (result.shown, result.matches) == (2, 10_000)


def test_nothing_found_gives_the_end() -> None:
    result = search(Query("nowhere"), log(*(f"l{n}" for n in range(100))))
    assert (result.matches, result.excerpts) == (0, [])
    assert result.tail == [f"l{n}" for n in range(70, 100)]
    assert search(Query(), []).lines == 0


@pytest.mark.parametrize(
    "line",
    [
        "src/main.rs:3:5: error[E0308]: mismatched types",
        "error: could not compile `x`",
        "main.c:7:2: fatal error: x.h: No such file",
        "FAILED tests/test_x.py::test_y - AssertionError",
        "E   assert 1 == 2",
        "Traceback (most recent call last):",
        "ValueError: bad",
        "thread 'main' panicked at src/main.rs:2:5",
        "panic: runtime error",
        "--- FAIL: TestX (0.00s)",
        "fatal: not a git repository",
        "make: *** [Makefile:2: all] Error 1",
        "npm ERR! code ELIFECYCLE",
        "sh: 1: cargo: not found",
        "bash: foo: command not found",
        "Segmentation fault (core dumped)",
        "ld: undefined reference to `main'",
        "Exception in thread main java.lang.NullPointerException: x",
    ],
)
def test_how_tools_tell_of_failures(line: str) -> None:
    assert re.search(FAILURE, line), line


@pytest.mark.parametrize(
    "line",
    ["0 errors, 0 warnings", "error_log.txt written", "all tests passed", "failed=0 ok=3"],
)
def test_what_is_no_failure(line: str) -> None:
    assert not re.search(FAILURE, line), line


def test_every_combination_is_a_job() -> None:
    found = expand(["make", "make test"], ["a", "b"], {"X": ["1", "it's"]})
    assert len(found) == 8
    assert found[0] == Variant("export X=1; make", "a", "X=1 a make")
    assert found[1] == Variant("""export X='it'"'"'s'; make""", "a", """X='it'"'"'s' a make""")
    assert expand(["true"], ["only"], {}) == [Variant("true", "only", "true")]
    assert expand(["true"], [], {}) == [Variant("true", None, "true")]


@pytest.mark.parametrize(
    ("commands", "matrix", "words"),
    [
        (["true"], {"not a name": ["1"]}, "not a name"),
        (["true"], {"X;rm": ["1"]}, "X;rm"),
        (["true"], {"X": []}, "no values"),
        (["true"] * (MOST + 1), {}, "101 jobs"),
        (["true"] * 11, {"X": [str(n) for n in range(10)]}, "110 jobs"),
        (["x" * 9_999], {"X": ["1"]}, "characters"),
    ],
)
def test_a_matrix_that_can_not_be(
    commands: list[str], matrix: dict[str, list[str]], words: str
) -> None:
    with pytest.raises(ClientError, match=re.escape(words)) as raised:
        expand(commands, [], matrix)
    assert raised.value.code == "invalid_matrix"


async def test_a_search_that_dies_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[dict[str, Any]] = []  # what nobody retrieves, for the log
    asyncio.get_running_loop().set_exception_handler(lambda _, context: left.append(context))
    page = {"output": "x\n" * 500_000, "total_bytes": 1_000_000, "next_offset": 1_000_000}
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json=page))
    monkeypatch.setattr(output, "_command", lambda: [sys.executable, "-c", "raise SystemExit(3)"])
    async with FlashpodsClient(ClientConfig(token="t"), transport=transport) as client:
        with pytest.raises(ClientError) as caught:
            await output._search(client, "j", Query())
    assert caught.value.code == "search_failed"
    del caught  # its frames hold the child
    gc.collect()
    assert left == []


async def test_a_search_that_does_not_get_on_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    page = {"output": "x\n" * 500_000, "total_bytes": 1_000_000, "next_offset": 1_000_000}
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json=page))
    sleeper = [sys.executable, "-c", "import time; time.sleep(300)"]
    monkeypatch.setattr(output, "_command", lambda: sleeper)
    monkeypatch.setattr(output, "STALL_SECONDS", 0.2)
    async with FlashpodsClient(ClientConfig(token="t"), transport=transport) as client:
        with pytest.raises(ClientError, match="try again") as caught:
            await output._search(client, "j", Query())
    assert caught.value.code == "search_stalled"


def test_each_piece_of_a_log_has_cpu_time_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log of any size, which takes as long as it takes, is not a pattern's fault."""
    limits: list[int] = []
    usage = SimpleNamespace(ru_utime=0.0, ru_stime=0.5)
    monkeypatch.setattr(resource, "getrusage", lambda _: usage)
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: limits.append(pair[0]))
    for line in searching._allowed(["line\n"] * (3 * searching.PIECE_LINES)):
        usage.ru_utime += 7 / searching.PIECE_LINES
        assert line == "line\n"
    assert limits == [searching.CPU_SECONDS + n for n in (1, 8, 15)]


def test_a_pattern_without_end_leaves_no_core(tmp_path: Path) -> None:
    """SIGXCPU's default, which would hold a job's log in the user's directory."""
    allowed = "import resource as r; r.setrlimit(r.RLIMIT_CORE, (r.RLIM_INFINITY,) * 2); "
    query = b'{"pattern": "(a+)+$"}\n' + b"a" * 60 + b"b\n"
    done = subprocess.run(
        [sys.executable, "-c", allowed + output._command()[-1]],
        input=query,
        cwd=tmp_path,
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stdout) == (-signal.SIGXCPU, b"")
    assert list(tmp_path.iterdir()) == []
