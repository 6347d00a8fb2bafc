"""What is damage and what a crash leaves: the one refuses the start, the other does not."""

from __future__ import annotations

import os
import shutil
import sqlite3
import struct
from pathlib import Path

import pytest

from flashpods.adapters.sqlite import damage
from flashpods.adapters.sqlite.migrations import SchemaError
from flashpods.adapters.sqlite.store import SqliteStore

FRAME = 24 + 4096


@pytest.fixture
def crashed(tmp_path: Path) -> Path:
    """A database as a killed process leaves it: all but the schema's first page is in the WAL."""
    live = tmp_path / "live.db"
    connection = sqlite3.connect(live, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE t (a)")
    for number in range(20):
        connection.execute("INSERT INTO t VALUES (?)", (f"{number}" * 1000,))
    path = tmp_path / "f.db"
    for end in ("", "-wal"):
        shutil.copy(f"{live}{end}", f"{path}{end}")
    connection.close()
    damage.mark_boot(path)
    return path


def wal(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def garble(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(os.urandom(64))


def rows(path: Path) -> int:
    connection = sqlite3.connect(path)
    try:
        return int(connection.execute("SELECT count(*) FROM t").fetchone()[0])
    finally:
        connection.close()


def test_what_a_crash_leaves_is_no_damage(crashed: Path) -> None:
    assert damage.find(crashed) is None
    assert rows(crashed) == 20


def test_nothing_there_is_no_damage(tmp_path: Path) -> None:
    assert damage.find(tmp_path / "f.db") is None
    (tmp_path / "f.db").touch()
    assert damage.find(tmp_path / "f.db") is None


def test_a_garbled_frame_before_committed_ones(crashed: Path) -> None:
    garble(wal(crashed), 32 + 5 * FRAME + 200)
    assert "frame 6 garbled" in str(damage.find(crashed))


def test_a_garbled_frame_header(crashed: Path) -> None:
    garble(wal(crashed), 32 + 5 * FRAME)
    assert "frame 6 garbled" in str(damage.find(crashed))


def test_after_a_power_cut_a_hole_is_no_damage(crashed: Path) -> None:
    """The disk may have written a later frame before an earlier one that was not synced."""
    garble(wal(crashed), 32 + 5 * FRAME + 200)
    crashed.with_name("f.db.boot").write_text("another boot")
    assert damage.find(crashed) is None


def test_a_torn_end_is_no_damage(crashed: Path) -> None:
    size = wal(crashed).stat().st_size
    os.truncate(wal(crashed), size - 100)
    assert damage.find(crashed) is None


def test_frames_of_before_the_last_checkpoint_are_no_damage(crashed: Path) -> None:
    """The WAL begins anew over its old content, whose salts are others."""
    data = bytearray(wal(crashed).read_bytes())
    for at in range(32 + 5 * FRAME, len(data), FRAME):
        data[at + 8 : at + 16] = struct.pack(">2I", 1, 2)
    wal(crashed).write_bytes(data)
    assert damage.find(crashed) is None


@pytest.mark.parametrize("boot", ["this", "another"])
def test_a_garbled_wal_header(crashed: Path, boot: str) -> None:
    if boot == "another":
        crashed.with_name("f.db.boot").write_text("another boot")
    garble(wal(crashed), 0)
    assert "header garbled" in str(damage.find(crashed))


def test_looking_changes_nothing_of_the_evidence(crashed: Path) -> None:
    garble(wal(crashed), 32 + 5 * FRAME + 200)
    before = wal(crashed).read_bytes()
    damage.find(crashed)
    assert wal(crashed).read_bytes() == before


async def test_the_refusal_names_file_damage_and_remedy(tmp_path: Path) -> None:
    path = tmp_path / "f.db"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(SchemaError, match=r"f\.db is damaged .*flashpods-admin restore FILE") as e:
        await SqliteStore.open(path)
    assert "\n" not in str(e.value)
