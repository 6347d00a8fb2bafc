"""What a backup is called, and which days stay."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashpods.admin.backups.names import (
    database_name,
    days_to_keep,
    files_name,
    kept,
    parse,
)

DAY = date(2026, 11, 26)


def test_names_are_the_contracts() -> None:
    assert database_name(DAY) == "db-20261126.db"
    assert files_name(DAY) == "files-20261126.tar.zst"
    for name in ("db-20261126.db", "db-20261126.db.zst", "files-20261126.tar.zst"):
        found = parse(Path("/b") / name)
        assert found is not None
        assert (found.day, found.packed) == (DAY, name.endswith(".zst"))


@pytest.mark.parametrize(
    "name",
    [
        "db-20261126.tar.zst",
        "files-20261126.db",
        "db-20261332.db",
        "db-2026112.db",
        ".new-db-20261126.db",
        "db-20261126.db.bak",
        "status.json",
        "notes.txt",
    ],
)
def test_what_is_not_ours_stays(name: str) -> None:
    assert parse(Path(name)) is None


def test_the_newest_comes_first_and_plain_before_packed(tmp_path: Path) -> None:
    for name in ("db-20261125.db.zst", "db-20261126.db.zst", "db-20261126.db", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "db-20261127.db").mkdir()
    assert [k.path.name for k in kept(tmp_path)] == [
        "db-20261126.db",
        "db-20261126.db.zst",
        "db-20261125.db.zst",
    ]


def test_seven_days_and_four_weeks_of_two_months() -> None:
    days = [DAY - timedelta(days=n) for n in range(60)]
    stay = days_to_keep(days, daily=7, weekly=4)
    assert stay == {
        *days[:7],
        date(2026, 11, 22),  # the Sundays of the weeks before
        date(2026, 11, 15),
        date(2026, 11, 8),
    }


def test_a_host_that_was_off_keeps_what_it_has() -> None:
    old = [date(2026, 1, 1), date(2025, 6, 1)]
    assert days_to_keep([DAY, *old], daily=7, weekly=4) == {DAY, *old}


@given(
    st.sets(st.dates(date(2024, 1, 1), date(2027, 1, 1))),
    st.integers(1, 10),
    st.integers(0, 6),
)
def test_retention_is_bounded_and_never_takes_the_newest(
    days: set[date], daily: int, weekly: int
) -> None:
    stay = days_to_keep(days, daily=daily, weekly=weekly)
    assert stay <= days
    assert len(stay) <= daily + weekly
    if days:
        assert max(days) in stay
    assert days_to_keep(stay, daily=daily, weekly=weekly) == stay  # repeated: nothing more goes
