"""The API's pure parts: buckets, tokens, cursors, ranges, events."""

from __future__ import annotations

import contextlib
import json
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.requests import Request

from flashpods.api.artifacts import RangeNotSatisfiable, parse_range
from flashpods.api.parse import Query, from_cursor, to_cursor
from flashpods.api.stream import to_event
from flashpods.errors import BadRequest, InternalError
from flashpods.web.problems import translate
from flashpods.web.ratelimit import RateLimiter


def test_a_burst_then_the_rate() -> None:
    limiter = RateLimiter(rate=100, burst=10, clients=10)
    assert [limiter.take("a", 0.0)[0] for _ in range(11)] == [0] * 10 + [1]
    assert limiter.take("b", 0.0)[0] == 0
    assert limiter.take("a", 0.005)[0] == 1
    assert limiter.take("a", 0.01)[0] == 0
    granted = sum(limiter.take("a", 1 + n / 1000)[0] == 0 for n in range(1000))
    assert 105 <= granted <= 110  # a full bucket and 100 in the second


def test_refusals_do_not_lengthen_the_wait() -> None:
    limiter = RateLimiter(rate=0.25, burst=1, clients=10)
    assert limiter.take("a", 0.0)[0] == 0
    assert [limiter.take("a", t)[0] for t in (0.0, 1.0, 2.0, 3.0, 4.0)] == [4, 3, 2, 1, 0]


def test_the_table_of_clients_is_bounded_and_forgets_the_longest_unseen() -> None:
    limiter = RateLimiter(rate=1, burst=1, clients=2)
    for client in ("a", "b", "a", "c"):
        limiter.take(client, 0.0)
    assert len(limiter) == 2
    assert limiter.take("a", 0.0)[0] > 0  # seen lately: still empty
    assert limiter.take("b", 0.0)[0] == 0  # forgotten


def test_headers_of_the_limiter() -> None:
    limiter = RateLimiter(rate=0.5, burst=3, clients=2)
    _, headers = limiter.take("a", 0.0)
    assert headers == [
        (b"x-ratelimit-limit", b"1"),
        (b"x-ratelimit-remaining", b"2"),
        (b"x-ratelimit-reset", b"2"),
    ]


@given(st.integers(0, 10**18 - 1))
def test_cursors_come_back(seq: int) -> None:
    assert from_cursor(to_cursor(seq)) == seq


@given(st.text(max_size=40))
def test_foreign_cursors_are_refused(text: str) -> None:
    with contextlib.suppress(BadRequest):
        assert to_cursor(from_cursor(text)) == text


@given(st.integers(0, 50), st.integers(0, 60), st.one_of(st.none(), st.integers(0, 60)))
def test_ranges_are_what_a_slice_gives(size: int, first: int, last: int | None) -> None:
    data = bytes(range(size))
    shown = "" if last is None else str(last)
    wanted = data[first : None if last is None else last + 1]
    if last is not None and last < first:
        wanted = b""
    header = f"bytes={first}-{shown}"
    if not wanted:
        with pytest.raises(RangeNotSatisfiable) as caught:
            parse_range(header, size)
        assert caught.value.headers == {"Content-Range": f"bytes */{size}"}
        return
    found = parse_range(header, size)
    assert found is not None
    assert data[slice(*found)] == wanted


LOG_LINE = st.text(
    st.characters(exclude_characters="\n", codec="utf-8")
    | st.sampled_from("\r\0\u2028\u2029\x85\x0b\x0c\x1c\ufeff␍")
)


@given(st.lists(LOG_LINE, min_size=1), st.integers(0))
@example(["50%\r100%", "dos\r", "\r", "", "\0\u2028\x85"], 7)
def test_events_keep_every_line(lines: list[str], cursor: int) -> None:
    text = "".join(f"{line}\n" for line in lines)
    # As the standard says it: CRLF, LF and CR end a line, nothing else does.
    fields = re.split("\r\n|\n|\r", to_event(text, cursor).decode())
    assert fields[0] == f"id: {cursor}"
    assert fields[-2:] == ["", ""]
    if "\r" in text:
        assert fields[1] == "event: encoded"
        assert fields[2].startswith("data: ")
        assert len(fields) == 5
        assert json.loads(fields[2].removeprefix("data: ")) == text
    else:
        assert fields[1:-2] == [f"data: {line}" for line in lines]


def request(query: bytes) -> Request:
    return Request({"type": "http", "query_string": query, "headers": []})


@given(st.binary(max_size=60))
def test_any_query_is_read_or_refused(raw: bytes) -> None:
    with contextlib.suppress(BadRequest):
        query = Query(request(raw), ("a", "b"))
        assert 1 <= query.whole("a", 1, 1, 10) <= 10
        assert 0 <= query.seconds("b", 60) <= 60


def test_an_unforeseen_error_says_nothing_of_itself() -> None:
    error = translate(RuntimeError("the password is x"))
    assert type(error) is InternalError
    assert "password" not in error.message
    assert error.headers == {}
