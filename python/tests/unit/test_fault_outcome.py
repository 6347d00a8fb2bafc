"""When ``./dev faults`` says that all held."""

from __future__ import annotations

from typing import Any

import pytest

from flashpods_dev.faults import NOTHING_CHOSEN, outcome

HELD: dict[str, Any] = {"tries": 2, "passed": 2, "broken": []}


@pytest.mark.parametrize(
    ("codes", "rows", "code"),
    [
        ([0, 0], [HELD], 0),
        ([0, NOTHING_CHOSEN], [HELD], 0),
        ([NOTHING_CHOSEN, NOTHING_CHOSEN], [], NOTHING_CHOSEN),
        ([0, -9], [HELD], 1),  # the kernel ran out of memory
        ([0, 1], [HELD], 1),
        ([0], [], 1),
        ([0], [HELD, HELD | {"tries": 0, "passed": 0}], 1),  # never tried
        ([0], [HELD | {"passed": 1}], 1),
        ([0], [HELD | {"broken": ["setup: no machine"]}], 1),
    ],
)
def test_the_outcome(codes: list[int], rows: list[dict[str, Any]], code: int) -> None:
    assert outcome(codes, rows) == code
