"""Raw output to lines: a pure function, however the input is cut."""

import time
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashpods.adapters.files.k8sfile import (
    LINE_BYTES,
    NO_HEAD,
    ParserState,
    flush,
    log_head,
    parse,
    whole_lines,
)

T = b"2026-11-24T09:31:26.123456789+00:00"
HEAD = b"[09:31:26.123] "


def raw(text: bytes, tag: bytes = b"F", stream: bytes = b"stdout", at: bytes = T) -> bytes:
    return b"%s %s %s %s\n" % (at, stream, tag, text)


def whole(data: bytes, *, block: int = LINE_BYTES) -> list[bytes]:
    """Parse as the capture does: block after block, the last one closed."""
    out: list[bytes] = []
    state, at = ParserState(), 0
    while piece := data[at : at + block]:
        taken = whole_lines(piece, closed=at + len(piece) >= len(data))
        if not taken:
            block *= 2
            continue
        lines, state = parse(piece[:taken], state)
        out += lines
        at += taken
    return out + flush(state)


@pytest.mark.parametrize(
    ("at", "head"),
    [
        (T, HEAD),
        (b"2026-11-24T09:31:26.123456789+02:00", b"[07:31:26.123] "),
        (b"2026-11-24T01:31:26.999999999+05:45", b"[19:46:26.999] "),
        (b"2026-11-24T23:31:26.000000001-03:30", b"[03:01:26.000] "),
        (b"2026-11-24T09:31:26.12Z", b"[09:31:26.120] "),
        (b"2026-11-24T09:31:26Z", b"[09:31:26.000] "),
    ],
)
@pytest.mark.parametrize("tags", [(b"F",), (b"P", b"F")])
def test_times_become_utc_with_milliseconds(at: bytes, head: bytes, tags: tuple[bytes]) -> None:
    assert whole(b"".join(raw(b"x", tag, at=at) for tag in tags)) == [head + b"x" * len(tags)]


def test_our_own_head_is_the_same() -> None:
    assert log_head(datetime.fromisoformat("2026-11-24T01:31:26.123999+02:00")) == (
        b"[23:31:26.123] "
    )


def test_parts_of_two_streams_join_apart_dated_by_their_first() -> None:
    later = b"2026-11-24T09:31:27.000000000+00:00"
    data = (
        raw(b"a", b"P")
        + raw(b"1", b"P", b"stderr", later)
        + raw(b"b", b"P", at=later)
        + raw(b"2", b"F", b"stderr", later)
        + raw(b"e", b"F", b"stderr", later)
        + raw(b"c", b"F", at=later)
        + raw(b"tail", b"P", at=later)
    )
    assert whole(data) == [
        b"[09:31:27.000] 12",
        b"[09:31:27.000] e",
        HEAD + b"abc",
        b"[09:31:27.000] tail",
    ]


@pytest.mark.parametrize(
    "text", [b"", b" ", b"\0", b"\r", b"\xff\xfe", b"\x1b[31mred", T, b"x F y"]
)
def test_text_stays_as_it_came(text: bytes) -> None:
    assert whole(raw(text)) == [HEAD + text]


@pytest.mark.parametrize(
    "odd",
    [
        b"",
        b"garbage",
        b"2026-11-24T09:31",
        b"2026-11-24T09:31:26.123456789+00:00 stdin F x",
        b"2026-99-99T99:99:99.123456789+01:00 stdout F x",
        b"2026-11-24T09:31:26.123456789+00:00 stdout F",
    ],
)
def test_what_is_not_the_engines_is_shown_with_the_time_before_it(odd: bytes) -> None:
    assert whole(odd + b"\n") == [NO_HEAD + odd]
    assert whole(raw(b"x") + odd + b"\n" + raw(b"y")) == [HEAD + b"x", HEAD + odd, HEAD + b"y"]


def test_a_torn_end_is_a_line() -> None:
    assert whole(raw(b"x") + T + b" stdout F torn") == [HEAD + b"x", HEAD + b"torn"]


@pytest.mark.parametrize("extra", [0, 1, LINE_BYTES, LINE_BYTES + 1])
def test_a_long_line_is_split_at_the_limit(extra: int) -> None:
    text = b"x" * (LINE_BYTES + extra)
    parts = [text[i : i + 8192] for i in range(0, len(text), 8192)]
    data = b"".join(raw(p, b"P") for p in parts[:-1]) + raw(parts[-1])
    lines = whole(data)
    assert [len(line) - 15 for line in lines] == [
        len(text[i : i + LINE_BYTES]) for i in range(0, len(text), LINE_BYTES)
    ]
    assert b"".join(line[15:] for line in lines) == text


def test_a_split_does_not_cut_a_character() -> None:
    text = b"x" * (LINE_BYTES - 2) + "€".encode() * 3
    lines = whole(b"".join(raw(text[i : i + 8000], b"P") for i in range(0, len(text), 8000)))
    assert [len(line) - 15 for line in lines] == [LINE_BYTES - 2, 9]
    assert b"".join(lines).decode()


def test_a_line_without_end_is_cut_and_memory_stays_bounded() -> None:
    assert whole_lines(b"x" * LINE_BYTES, closed=False) == LINE_BYTES
    assert whole_lines(b"x" * (LINE_BYTES - 1), closed=False) == 0
    assert whole_lines(b"x" * (LINE_BYTES - 1), closed=True) == LINE_BYTES - 1
    state = ParserState()
    for _ in range(100):
        _, state = parse(raw(b"x" * 8192, b"P"), state)
        assert sum(len(p.text) for p in state.pending) <= LINE_BYTES


RAW_LINES = st.lists(
    st.one_of(
        st.builds(
            raw,
            st.binary(max_size=20).map(lambda b: b.replace(b"\n", b"")),
            st.sampled_from([b"F", b"P"]),
            st.sampled_from([b"stdout", b"stderr"]),
            st.sampled_from([T, b"2026-11-24T09:31:27.5Z", b"2026-11-24T09:31:28.000000000-02:00"]),
        ),
        st.binary(max_size=20).map(lambda b: b.replace(b"\n", b"") + b"\n"),
    ),
    max_size=40,
)


@given(lines=RAW_LINES, block=st.integers(1, 300), torn=st.integers(0, 60))
@settings(max_examples=200, deadline=None)
def test_the_result_does_not_depend_on_the_blocks(
    lines: list[bytes], block: int, torn: int
) -> None:
    data = b"".join(lines)
    data = data[: len(data) - torn] if torn < len(data) else data
    expected = whole(data, block=1 << 20)
    out: list[bytes] = []
    state, at = ParserState(), 0
    while at < len(data):
        end = min(at + block, len(data))
        cut = data.find(b"\n", end - 1) + 1 or len(data)
        got, state = parse(data[at:cut], state)
        out += got
        at = cut
    assert out + flush(state) == expected


def test_it_is_fast_enough() -> None:
    """A guard against a slow path on the common one; the goal, 100 MB/s, is ./dev bench's."""
    data = b"".join(
        b"2026-11-24T09:31:26.%09d+00:00 stdout F %s\n" % (n // 100, b"x" * 79)
        for n in range(200_000)
    )
    began = time.process_time()
    whole(data)
    assert len(data) / (time.process_time() - began) > 20e6
