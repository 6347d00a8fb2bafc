"""Logs stay open for those who read them again, but never many and never long."""

import asyncio
import os
from pathlib import Path

import pytest

from flashpods.adapters.files import openlogs
from flashpods.adapters.files.openlogs import MOST, OpenLogs, read_apart


def open_files(directory: Path) -> list[str]:
    """Name what this process has open under a directory."""
    found = []
    for fd in Path("/proc/self/fd").iterdir():
        try:
            target = fd.readlink()
        except FileNotFoundError:  # the listing's own
            continue
        if target.is_relative_to(directory):
            found.append(target.name)
    return sorted(found)


async def test_a_log_is_opened_once(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_bytes(b"one\n")
    logs = OpenLogs(tmp_path)
    first = logs.get("a.log")
    assert first is not None
    assert logs.get("a.log") == first
    with (tmp_path / "a.log").open("ab") as file:
        file.write(b"two\n")
    assert os.pread(first, 99, 0) == b"one\ntwo\n"
    logs.close("a.log")
    logs.close("a.log")
    assert open_files(tmp_path) == []


async def test_one_that_is_not_there_yet(tmp_path: Path) -> None:
    logs = OpenLogs(tmp_path)
    assert logs.get("a.log") is None
    (tmp_path / "a.log").write_bytes(b"")
    assert logs.get("a.log") is not None
    logs.close_all()


async def test_never_more_than_so_many(tmp_path: Path) -> None:
    logs = OpenLogs(tmp_path)
    for number in range(3 * MOST):
        name = f"{number}.log"
        (tmp_path / name).write_bytes(b"")
        assert logs.get(name) is not None
        assert len(open_files(tmp_path)) <= MOST
    logs.close_all()
    assert open_files(tmp_path) == []


async def test_one_deleted_by_another_process_gives_its_space_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openlogs, "KEPT_SECONDS", 0.01)
    (tmp_path / "a.log").write_bytes(b"one\n")
    logs = OpenLogs(tmp_path)
    assert logs.get("a.log") is not None
    (tmp_path / "a.log").unlink()
    later = asyncio.Event()
    asyncio.get_running_loop().call_later(openlogs.KEPT_SECONDS, later.set)
    async with asyncio.timeout(10):
        await later.wait()
    assert open_files(tmp_path) == []  # nobody asked again
    assert logs.get("a.log") is None


def test_read_apart(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_bytes(b"one\n")
    assert read_apart(tmp_path / "a.log", lambda fd: os.pread(fd, 9, 0)) == b"one\n"
    assert read_apart(tmp_path / "b.log", lambda fd: os.pread(fd, 9, 0)) is None
    assert open_files(tmp_path) == []
