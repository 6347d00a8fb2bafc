"""What --since takes, and which lines of a log are younger."""

from datetime import UTC, date, datetime, time, timedelta

import pytest
import typer

from flashpods.cli.since import LineFilter, Since, parse_since

NOW = datetime(2026, 3, 4, 10, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "since", "begin"),
    [
        ("90s", Since(ago=timedelta(seconds=90)), NOW - timedelta(seconds=90)),
        ("2h", Since(ago=timedelta(hours=2)), NOW - timedelta(hours=2)),
        ("1d", Since(ago=timedelta(days=1)), NOW - timedelta(days=1)),
        ("@123", Since(cursor=123), None),
        ("09:30", Since(clock=time(9, 30)), NOW.replace(hour=9, minute=30)),
        ("10:00:01", Since(clock=time(10, 0, 1)), NOW + timedelta(days=-1, seconds=1)),
        ("2026-03-04T09:00:00Z", Since(at=NOW.replace(hour=9)), NOW.replace(hour=9)),
        ("2026-03-04T10:00:00+01:00", Since(at=NOW.replace(hour=9)), NOW.replace(hour=9)),
        ("2026-03-04", Since(at=NOW.replace(hour=0)), NOW.replace(hour=0)),
    ],
)
def test_what_it_takes(text: str, since: Since, begin: datetime | None) -> None:
    assert parse_since(text) == since
    assert since.begin(NOW) == begin


@pytest.mark.parametrize("text", ["", "noon", "10", "-5m", "5 m", "24:00", "@", "@x", "2026-13-01"])
def test_what_it_does_not(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="12:30"):
        parse_since(text)


def filtered(begin: datetime, *pieces: str) -> str:
    passing = LineFilter(begin, date(2026, 3, 3))
    return "".join(passing.take(piece) for piece in pieces)


def test_from_the_first_line_on_that_is_young_enough() -> None:
    begin = datetime(2026, 3, 3, 12, 0, 1, tzinfo=UTC)
    old, young = "[12:00:00.999] a\nno time\n", "[12:00:01.000] b\n[11:59:59.000] late\nno time\n"
    assert filtered(begin, old + young) == young
    assert filtered(begin, old, young, old) == young + old
    assert filtered(begin, old) == ""


def test_midnight_is_the_next_day_and_disorder_is_not() -> None:
    begin = datetime(2026, 3, 4, 0, 0, 5, tzinfo=UTC)
    log = "[23:59:59.000] a\n[23:59:58.000] b\n[00:00:04.000] c\n[00:00:05.000] d\n"
    assert filtered(begin, log) == "[00:00:05.000] d\n"


def test_a_line_that_only_looks_like_one() -> None:
    begin = datetime(2026, 3, 3, 12, tzinfo=UTC)
    assert filtered(begin, "[99:99:99.999] x\n[..] [TRUNCATED]\n") == ""
