"""The capture and the engine's rotation of what it writes."""

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from capture_rig import MB, Engine, expected, failing, finish, new, output, raw

from flashpods.adapters.files.capture import GAP_LINE, capture_max_bytes


def test_one_raw_file_fills_a_log_even_with_empty_lines(
    tmp_path: Path, engines: Callable[[Path, int], Engine]
) -> None:
    limit = MB
    capture = new(tmp_path, limit)
    capture.prepare()
    engine = engines(capture.raw, capture_max_bytes(limit))
    while engine.rotations < 3:
        engine.write(raw(""))
    assert finish(new(tmp_path, limit)) == expected(engine.written, limit)


def test_rotation_while_we_follow_loses_nothing(
    tmp_path: Path, engines: Callable[[Path, int], Engine]
) -> None:
    capture = new(tmp_path)
    capture.prepare()
    capture.open()
    engine = engines(capture.raw, 2000)
    for line in output(2000):
        before = engine.rotations
        engine.write(line)
        if engine.rotations > before:
            capture.step()
            assert len(list((capture.directory / "kept").glob("[0-9]*"))) <= 2
    assert engine.rotations > 20
    assert finish(capture) == expected(engine.written, 50 * MB)


def test_one_rotation_while_we_are_down_is_followed_with_a_mark(
    tmp_path: Path, engines: Callable[[Path, int], Engine]
) -> None:
    capture = new(tmp_path)
    capture.prepare()
    engine = engines(capture.raw, 500)
    engine.write(*[raw(f"{n}") for n in range(15)])
    assert engine.rotations == 1
    text = finish(new(tmp_path)).decode()
    assert text.count(GAP_LINE.decode()) == 1
    assert text.startswith("[09:31:26.123] 0\n")
    assert text.endswith("[09:31:26.123] 14\n")


def test_a_log_that_can_not_be_written_holds_few_raw_files(
    tmp_path: Path, engines: Callable[[Path, int], Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    capture = new(tmp_path)
    capture.prepare()
    engine = engines(capture.raw, 1000)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", failing(errno.ENOSPC))
        for line in output(100):
            engine.write(line)
            with suppress(OSError):
                capture.step()
    assert engine.rotations > 5
    assert len(list((capture.directory / "kept").glob("[0-9]*"))) == 2
    engine.write(raw("end"))
    for _ in range(3):
        capture.step()
        engine.write(raw("end"))
    text = finish(capture)
    assert text.startswith(expected(b"".join(output(100)[:5]), MB))
    assert text.count(GAP_LINE) == 1
