"""Whether a database and its WAL are as SQLite wrote them; looked at before SQLite opens them.

SQLite ends the WAL at the first frame whose checksum is wrong, and deletes the file when the last
connection closes. That is right after a power cut, where the end may be torn; but of a WAL that
was garbled in its middle it silently drops what was committed behind. So that is found here, while
the file is still there. Formats: sqlite.org/fileformat2.html, section 4.
"""

from __future__ import annotations

import sqlite3
import struct
import time
from pathlib import Path
from typing import Final

import structlog

from flashpods.adapters.sqlite.connection import primary_code

CHECK_SECONDS: Final = 2.0
"""Of quick_check, which reads everything: some 500 MB from a warm cache. The nightly backup is
checked in full, so that a larger database delays no start."""
LOOKS: Final = 3
LOOK_PAUSE: Final = 0.05
WAL_MOST: Final = 64 * 1024**2  # bytes looked at; the writer's journal_size_limit

_HEADER, _FRAME = 32, 24
_MAGIC: Final = {0x377F0682: "<", 0x377F0683: ">"}
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
GARBLED: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}

log = structlog.get_logger(__name__)


def find(path: Path) -> str | None:
    """Return what is wrong with an existing database, in one clause, or None; blocks.

    Raises:
        OSError, sqlite3.Error: it can't be read at all.
    """
    if not path.exists() or path.stat().st_size == 0:
        return None
    return _wal(path) or _pages(path)


def mark_boot(path: Path) -> None:
    """Note in which boot of the machine the database was last opened; see :func:`_wal`."""
    mark = path.with_name(path.name + ".boot")
    if _read(mark) != _read(_BOOT_ID):
        mark.write_text(_read(_BOOT_ID))


def forget_boot(path: Path) -> None:
    """Drop the note once the last connection has closed cleanly: then there is no WAL to judge."""
    if not path.with_name(path.name + "-wal").exists():
        path.with_name(path.name + ".boot").unlink(missing_ok=True)


def _pages(path: Path) -> str | None:
    """Have SQLite look at the pages, for :data:`CHECK_SECONDS` at most."""
    connection = sqlite3.connect(path, timeout=CHECK_SECONDS)
    end = time.monotonic() + CHECK_SECONDS
    connection.set_progress_handler(lambda: time.monotonic() > end, 10_000)
    try:
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as e:
        if primary_code(e) == sqlite3.SQLITE_INTERRUPT:
            log.info("database_checked_in_part", path=str(path), seconds=CHECK_SECONDS)
            return None
        if primary_code(e) in GARBLED:
            return str(e)
        raise
    finally:
        connection.close()
    return None if found == "ok" else " ".join(str(found).split())[:200]


def _wal(path: Path) -> str | None:
    """Look at the WAL; again if something is wrong, since another process may be writing to it."""
    wal = path.with_name(path.name + "-wal")
    # After a power cut frames may be missing before later ones; in the same boot they may not.
    same_boot = _read(path.with_name(path.name + ".boot")) == _read(_BOOT_ID)
    found = None
    for look in range(LOOKS):
        if look:
            time.sleep(LOOK_PAUSE)
        try:
            with wal.open("rb") as file:
                data = file.read(WAL_MOST)
        except FileNotFoundError:
            return None
        found = _header(data) or (_frames(data) if same_boot else None)
        if found is None:
            return None
    return f"its WAL is: {found}"


def _header(data: bytes) -> str | None:
    if len(data) < _HEADER:
        return None  # just made, or emptied by a checkpoint
    magic, stored = int.from_bytes(data[:4], "big"), struct.unpack(">2I", data[24:32])
    if magic not in _MAGIC or _checksum(_MAGIC[magic], data[:24], (0, 0)) != stored:
        return "header garbled"
    return None


def _frames(data: bytes) -> str | None:
    """Find a frame that is wrong though a whole, committed one comes behind it."""
    if len(data) < _HEADER:
        return None
    order = _MAGIC[int.from_bytes(data[:4], "big")]
    size = _FRAME + (int.from_bytes(data[8:12], "big") or 65536)
    salts, before = data[16:24], struct.unpack(">2I", data[24:32])
    wrong: int | None = None
    for number, at in enumerate(range(_HEADER, len(data) - size + 1, size), 1):
        frame = memoryview(data)[at : at + size]
        stored = struct.unpack(">2I", frame[16:24])
        whole = bytes(frame[8:16]) == salts
        whole = (
            whole
            and _checksum(order, frame[_FRAME:], _checksum(order, frame[:8], before)) == stored
        )
        committed = int.from_bytes(frame[4:8], "big") > 0
        if not whole and wrong is None:
            wrong = number
        elif whole and committed and wrong is not None:
            return f"frame {wrong} garbled, frame {number} behind it is committed"
        before = stored
    return None


def _checksum(order: str, data: bytes | memoryview, seed: tuple[int, int]) -> tuple[int, int]:
    """Continue SQLite's WAL checksum over a multiple of 8 bytes."""
    s0, s1 = seed
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for first, second in zip(words[::2], words[1::2], strict=True):
        s0 = (s0 + first + s1) & 0xFFFFFFFF
        s1 = (s1 + second + s0) & 0xFFFFFFFF
    return s0, s1


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""
