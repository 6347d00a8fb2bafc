"""What a job wrote can't steer the terminal."""

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashpods.cli.terminal import LogWriter, plain, use_colour, visible
from flashpods.cli.units import human_bytes, human_seconds


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("plain ü 😀\ttab", "plain ü 😀\ttab"),
        ("\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m\x1b[0m"),
        ("\x1b[38:2::1:2:3mx", "\x1b[38:2::1:2:3mx\x1b[0m"),
        ("\x1b[2J\x1b[Hgone", "gone"),
        ("\x1b[?1049hx", "x"),
        ("\x1b]0;title\x07x", "x"),
        ("\x1b]52;c;ZXZpbA==\x1b\\x", "x"),
        ("\x1b]8;;http://e\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("a\x1b]0;never ended", "a"),
        ("\x1bP1$r\x1b\\x", "x"),
        ("\x1b(0x", "x"),
        ("\x1bcx", "x"),
        ("x\x1b", "x"),
        ("x\x1b[", "x"),
        ("x\x1b[31", "x"),
        ("\x9b2Jx", "x"),
        ("\x9d0;t\x9cx", "x"),
        ("bell\x07 back\x08 nul\x00", "bell back nul"),
        ("\u202eevil\u2066", "evil"),
        ("10%\r20%\r30%", "30%"),
        ("10%\r", "10%"),
        ("10%␍20%", "10%␍20%"),
        ("\x1b\x1b[31mx", "\x1b[31mx\x1b[0m"),
    ],
)
def test_visible(line: str, shown: str) -> None:
    assert visible(line, colour=True) == shown


def test_without_colour_no_escape_is_left() -> None:
    assert visible("\x1b[31mred\x1b[0m", colour=False) == "red"


@given(st.text(alphabet=st.sampled_from("a[]0;1mHJ?P\\^_X\x1b\x07\r\x9b\x9c\x9d\x90\u202e")))
def test_only_sgr_is_left_of_anything(line: str) -> None:
    rest = re.sub(r"\x1b\[[0-9;:]*m", "", visible(line, colour=True))
    assert not re.search(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u202e]", rest)
    assert "\x1b" not in visible(line, colour=False)


def test_plain_is_one_line() -> None:
    assert plain("a\nb\rc\x1b[31md") == "a b cd"


def write(text: str, **options: bool) -> str:
    out = io.BytesIO()
    settings = {"tty": False, "colour": False, "timestamps": True, **options}
    LogWriter(out, **settings).write(text)
    return out.getvalue().decode()


LINES = "[10:00:00.000] \x1b[31mx\x1b[2J\n[10:00:00.001] y\u2028z\n[10:00:00.002] 5%\r9%\n"


def test_a_pipe_gets_the_log_as_it_is() -> None:
    assert write(LINES) == LINES


def test_a_pipe_without_timestamps() -> None:
    assert write(LINES, timestamps=False) == "\x1b[31mx\x1b[2J\ny\u2028z\n5%\r9%\n"


def test_a_terminal_gets_dim_timestamps_and_colours() -> None:
    shown = write(LINES, tty=True, colour=True)
    assert shown == (
        "\x1b[2m[10:00:00.000] \x1b[0m\x1b[31mx\x1b[0m\n\x1b[2m[10:00:00.001] \x1b[0myz\n"
        "\x1b[2m[10:00:00.002] \x1b[0m9%\n"
    )


def test_a_terminal_without_colour() -> None:
    assert write(LINES, tty=True) == "[10:00:00.000] x\n[10:00:00.001] yz\n[10:00:00.002] 9%\n"


def test_text_without_a_newline_stays_so() -> None:
    assert write("[10:00:00.000] x", timestamps=False) == "x"
    assert write("", timestamps=False) == ""


def test_lone_surrogates_do_not_fail() -> None:
    assert write("\ud800\n") == "?\n"


def test_no_color() -> None:
    assert use_colour(True, {})
    assert not use_colour(True, {"NO_COLOR": "1"})
    assert not use_colour(True, {"TERM": "dumb"})
    assert not use_colour(False, {})


def test_units() -> None:
    assert [human_bytes(n) for n in (0, 999, 1500, 2_000_000, 3_000_000_000_000)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "2.0 MB",
        "3000.0 GB",
    ]
    assert [human_seconds(s) for s in (None, 0.25, 12.34, 65, 7800)] == [
        "",
        "250 ms",
        "12.3 s",
        "1 min 05 s",
        "2 h 10 min",
    ]
