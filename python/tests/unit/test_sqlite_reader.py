"""Lists are read where they are asked for, unless they take long."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from flashpods.adapters.sqlite.reader import Reader
from flashpods.errors import InternalError

COUNT = """
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) SELECT max(i) FROM n
"""


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    path = tmp_path / "x.db"
    sqlite3.connect(path).execute("CREATE TABLE t (i)").connection.close()
    reader = Reader(path, deadline=60)
    yield reader
    reader.close()


class Counted:
    """A query that notes which thread it runs in."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.threads: list[threading.Thread] = []

    def __call__(self, connection: sqlite3.Connection) -> int:
        self.threads.append(threading.current_thread())
        found: int = connection.execute(COUNT, (self.steps,)).fetchone()[0]
        return found


async def test_a_short_list_needs_no_thread(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flashpods.adapters.sqlite.reader.INLINE_SECONDS", 60.0)
    query = Counted(5)
    assert await reader.adaptive(query) == 5
    assert query.threads == [threading.main_thread()]


async def test_a_long_one_leaves_the_event_loop_to_others(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was quick before it."""
    assert await reader.adaptive(Counted(5)) == 5
    monkeypatch.setattr("flashpods.adapters.sqlite.reader.INLINE_SECONDS", 0.0)
    long = Counted(1_000)
    assert await reader.adaptive(long) == 1_000
    assert long.threads[0] is threading.main_thread()
    assert long.threads[1] is not threading.main_thread()
    assert len(long.threads) == 2
    # And what comes after it is not cut short.
    assert reader.inline(Counted(100_000)) == 100_000


async def test_another_error_is_not_tried_again(reader: Reader) -> None:
    calls = []

    def wrong(connection: sqlite3.Connection) -> int:
        calls.append(1)
        connection.execute("SELECT * FROM missing")
        return 0

    with pytest.raises(InternalError):
        await reader.adaptive(wrong)
    assert calls == [1]
