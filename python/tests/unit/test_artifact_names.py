import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashpods.jobs.names import job_id, printable_name, valid_artifact_name

ODD_BYTES = [b for b in range(256) if b < 0x20 or b >= 0x7F]


@pytest.mark.parametrize(
    "name",
    [
        "a",
        ".env",
        ".a.b",
        "a b",
        "ä.txt",
        "x" * 255,
        "ä" * 127,
        "-rf",
        "~",
        "a.b",
    ],
)
def test_allowed(name: str) -> None:
    assert valid_artifact_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "a..b", "../x", "/x", "x/y", "x\\y", "a\0b", " a", "a ", "\ta", "a\n"),
        *(
            "a\nb",
            "\x7f",
            "\x85x",
            "a\u2028b",
            "a\u2029b",
            "\u3000a",
            "x" * 256,
            "ä" * 128,
            "\udcff",
        ),
    ],
)
def test_refused(name: str) -> None:
    assert not valid_artifact_name(name)


@pytest.mark.parametrize("byte", ODD_BYTES)
def test_every_odd_byte_alone_in_a_name_is_refused(byte: int) -> None:
    name = (b"a" + bytes([byte]) + b"b").decode("utf-8", "surrogateescape")
    assert not valid_artifact_name(name)
    assert not printable_name(name)


@given(st.text())
def test_a_valid_name_is_one_component(name: str) -> None:
    if valid_artifact_name(name):
        assert 1 <= len(name.encode()) <= 255
        assert not set(name) & set("/\\\0")
        assert name == name.strip()


@pytest.mark.parametrize("text", ["", ".x", "a/b", "..", "a\n", "x" * 129, "ä"])
def test_a_job_id_is_a_directory_name(text: str) -> None:
    with pytest.raises(ValueError, match="not a job id"):
        job_id(text)
    assert job_id("0f3a" * 4) == "0f3a" * 4
