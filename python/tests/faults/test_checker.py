"""The checker can fail: each broken history is found, and only that."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from checker import Event, Evidence, Log, Row, percentile, violations
from rig import READ_EVERY, late_reads

WAY = [("pending", None), ("starting", "pending"), ("running", "starting")]


def history(job_id: str, *further: tuple[str, str]) -> list[Event]:
    steps = [*((a, b) for a, b in WAY), *further]
    return [Event(job_id, before, after) for after, before in steps]


def good() -> Evidence:
    return Evidence(
        capacity=(4, 8),
        jobs=[Row("a", "completed", 2, 4), Row("b", "running", 2, 4)],
        events=[*history("a", ("completed", "running")), *history("b")],
        uploads={"u": "consumed"},
        acknowledged_jobs=frozenset({"a", "b"}),
        acknowledged_uploads=frozenset({"u"}),
        running=frozenset({"b"}),
        created={"job_a": frozenset({"1"}), "job_b": frozenset({"2"})},
        started={"job_a": frozenset({"1"}), "job_b": frozenset({"2"})},
        containers=["job_b"],
        logs={"a": Log([0, 1, 2], 3), "b": Log([0, 1])},
        recovery=1.0,
        reads=[0.01] * 200 + [3.0],
    )


def test_a_good_history_passes() -> None:
    assert violations(good()) == []
    assert violations(Evidence(capacity=(1, 1))) == []


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"acknowledged_jobs": frozenset({"c"})}, "job c was acknowledged"),
        ({"acknowledged_uploads": frozenset({"v"})}, "upload v was acknowledged"),
        ({"created": {"job_a": frozenset({"1", "2"})}}, "job_a had 2 containers"),
        ({"created": {"job_a": frozenset({"1", "2"})}, "anew": True}, None),
        ({"created": {"job_a": frozenset({"1", "2", "3"})}, "anew": True}, "job_a had 3"),
        ({"started": {"job_a": frozenset({"1", "2"})}, "anew": True}, "job_a ran in 2"),
        ({"containers": ["job_a", "job_b"]}, "job_a is an orphan"),
        ({"containers": []}, "job_b is gone"),
        ({"leftovers": ["/work/a"]}, "left over: /work/a"),
        ({"reserved": (2, 4)}, None),
        ({"reserved": (4, 8)}, "reserved are (4, 8)"),
        ({"acknowledged_cancels": frozenset({"b"})}, None),
        ({"acknowledged_cancels": frozenset({"a"})}, "job a ended otherwise"),
        ({"broken_promises": ["POST /jobs: 500"]}, "POST /jobs: 500"),
        ({"running": frozenset()}, "job b is running and holds 2 CPUs"),
        ({"running": frozenset({"a", "b"})}, "a was to go on"),
        ({"capacity": (3, 8)}, None),
        ({"logs": {"a": Log([0, 2], None)}}, "line 2 where 1 belongs"),
        ({"logs": {"a": Log([0, 0, 1], None)}}, "line 0 where 1 belongs"),
        ({"logs": {"a": Log([0, 1], 3)}}, "2 of 3 lines"),
        ({"integrity": ["row 1 missing"]}, "integrity_check: row 1"),
        ({"recovery": 10.5}, "only after 10.5 s"),
        ({"recovery": 10.5, "patience": 1.1}, None),
        ({"recovery": 11.5, "patience": 1.1}, "only after 11.5 s"),
        ({"reads": [0.1] * 98 + [1.5] * 2}, "p99 of 100 unrelated reads was 1.50 s"),
        ({"reads": [0.1] * 98 + [1.5] * 2, "patience": 2.0}, None),
        ({"reads": [0.1] * 50 + [1.5]}, None),
    ],
)
def test_each_break_is_found(change: dict[str, Any], found: str | None) -> None:
    lines = violations(replace(good(), **change))
    if found is None:  # a ended before b began, so one at a time fits; or it is allowed
        assert lines == []
    else:
        assert any(found in line for line in lines), lines
        assert len(lines) == 1 or "running" in change, lines


@pytest.mark.parametrize(
    ("events", "found"),
    [
        (history("a", ("pending", "running")), "illegal transition running → pending"),
        (history("a", ("completed", "running"), ("failed", "completed")), "completed → failed"),
        ([Event("a", None, "running")], "illegal transition None → running"),
        (history("a", ("completed", "starting")), "from starting, but it was running"),
        (history("a"), "is completed, its history ends at running"),
    ],
)
def test_each_illegal_history_is_found(events: list[Event], found: str) -> None:
    row = Row("a", events[-1].to_status if "ends at" not in found else "completed", 1, 1)
    seen = Evidence(capacity=(8, 8), jobs=[row], events=events, running=frozenset({"a"}))
    assert any(found in line for line in violations(seen)), violations(seen)


def test_an_instant_of_overcommitment_is_found_though_both_have_ended() -> None:
    both = [*history("a"), *history("b")]
    ends = [Event(job, "running", "completed") for job in "ab"]
    rows = [Row(job, "completed", 2, 1) for job in "ab"]
    seen = Evidence(capacity=(3, 8), jobs=rows, events=[*both, *ends])
    assert any("overcommitted" in line for line in violations(seen))
    assert violations(replace(seen, capacity=(4, 2))) == []
    assert any("2 GB" in line for line in violations(replace(seen, capacity=(4, 1))))


def test_the_percentile_is_the_nearest_rank() -> None:
    assert percentile([1.0], 0.99) == 1.0
    assert percentile([float(n) for n in range(1, 101)], 0.99) == 99.0


def test_a_slow_read_counts_as_often_as_reads_were_due() -> None:
    assert late_reads(0.02) == [0.02]
    assert late_reads(0.12) == pytest.approx([0.12, 0.07, 0.02])
    assert len(late_reads(3 + READ_EVERY / 2)) == 1 + round(3 / READ_EVERY)
