"""Pages of a log are what a reader of the whole file would cut out of it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashpods.adapters.files import logread
from flashpods.adapters.files.logread import BLOCK, read_page, read_tail, truncation_line
from flashpods.ports import LogTail

MARKER = truncation_line(50 << 20)

LINES = st.builds(
    lambda lines, times: (lines * times)[:400],
    st.lists(
        st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"?"))
        | st.sampled_from([1, 95, 96, 97, 5000, BLOCK, 2 * BLOCK + 1]).map(lambda n: b"x" * n)
        | st.just(MARKER[:-1]),
        max_size=6,
    ),
    st.sampled_from([1, 2, 60]),
)


def model(data: bytes, count: int) -> tuple[bytes, int, bool]:
    """Return the last complete lines, how many there are, and whether the log is cut."""
    complete = data[: data.rfind(b"\n") + 1]
    lines = [line + b"\n" for line in complete.split(b"\n")[:-1]]
    return b"".join(lines[-count:]), min(len(lines), count), data.endswith(MARKER)


@contextmanager
def reading(log: Path) -> Iterator[int]:
    """The log's descriptor."""
    with log.open("rb") as file:
        yield file.fileno()


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs") / "j.log"


@settings(max_examples=150, deadline=None)
@given(
    lines=LINES,
    rest=st.sampled_from([b"", b"part", b"y" * 10_000, b"y" * (BLOCK + 9)]),
    count=st.sampled_from([1, 2, 7, 42, 43, 100, 1000]),
    most=st.sampled_from([1, 97, 4096, 3 * BLOCK, 1 << 60]),
    cached=st.booleans(),
)
def test_any_tail(
    log: Path, *, lines: list[bytes], rest: bytes, count: int, most: int, cached: bool
) -> None:
    data = b"".join(line + b"\n" for line in lines) + rest
    log.write_bytes(data)
    expected, found, cut = model(data, count)
    while found > 1 and len(expected) > most:
        expected, found, cut = model(data, found - 1)
    end = len(data) - len(rest)
    for known in (None, (end, cut)):
        try:
            with reading(log) as fd:
                tail = read_tail(fd, count, known, MARKER, cached=cached, most=most)
        except logread.NotCached:
            assert cached
            continue
        assert tail == LogTail(
            output=expected.decode("utf-8", "replace"),
            lines=found,
            truncated=cut,
            total_bytes=end,
            offset=end - len(expected),
            next_offset=end,
        )


@settings(max_examples=60, deadline=None)
@given(
    lines=LINES.filter(bool),
    rest=st.sampled_from([b"", b"part"]),
    limit=st.sampled_from([1, 100, 9000]),
)
def test_pages_put_together_are_the_log(
    log: Path, lines: list[bytes], rest: bytes, limit: int
) -> None:
    lines = lines[:60]
    data = b"".join(line + b"\n" for line in lines)
    log.write_bytes(data + rest)
    at, text, count = 0, "", 0
    while at < len(data):
        with reading(log) as fd:
            page = read_page(fd, at, limit, None, MARKER, cached=False)
        assert page.next_offset > page.offset == at
        assert page.next_offset - at <= limit or page.lines == 1
        at, text, count = page.next_offset, text + page.output, count + page.lines
    assert text == data.decode("utf-8", "replace")
    assert count == len(lines)


def test_only_what_was_complete_is_shown_of_a_log_that_grows(tmp_path: Path) -> None:
    log = tmp_path / "j.log"
    log.write_bytes(b"one\ntwo\nthree\n")
    with reading(log) as fd:
        tail = read_tail(fd, 5, (8, False), MARKER, cached=False)
    assert (tail.output, tail.total_bytes, tail.truncated) == ("one\ntwo\n", 8, False)


def test_a_short_read_from_memory_is_not_taken_for_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "j.log"
    log.write_bytes(b"line\n" * 1000)
    real = os.preadv

    def short(fd: int, buffers: list[bytearray], offset: int, flags: int = 0) -> int:
        # The kernel stops at the first page that is not in memory (preadv2(2), RWF_NOWAIT).
        return real(fd, [memoryview(buffers[0])[:100]], offset)

    monkeypatch.setattr("flashpods.adapters.files.logread.os.preadv", short)
    with reading(log) as fd:
        with pytest.raises(logread.NotCached):
            read_tail(fd, 500, None, MARKER, cached=True)
        tail = read_tail(fd, 500, None, MARKER, cached=False)
    assert tail.output == "line\n" * 500
