"""The state machine against a table written a second time, by hand."""

from __future__ import annotations

import pytest

from flashpods.jobs.states import (
    ACTIVE,
    ENDED,
    TERMINAL,
    TRANSITIONS,
    IllegalTransition,
    JobStatus,
    Trigger,
    advance,
)

# Columns in the order of the triggers; "-" is refused.
TRIGGERS = "launch started succeed fail time_out cancel clean cleaned"
EXPECTED = """
pending    starting -       -         failed -         cancelled -        -
starting   -        running -         failed -         cancelled -        -
running    -        -       completed failed timed_out cancelled -        -
completed  -        -       -         -      -         -         cleaning -
failed     -        -       -         -      -         -         cleaning -
timed_out  -        -       -         -      -         -         cleaning -
cancelled  -        -       -         -      -         -         cleaning -
cleaning   -        -       -         -      -         -         -        cleaned
cleaned    -        -       -         -      -         -         -        -
"""
PAIRS = [
    (status, trigger, target)
    for status, *targets in map(str.split, EXPECTED.strip().splitlines())
    for trigger, target in zip(TRIGGERS.split(), targets, strict=True)
]


def test_the_table_has_every_state_and_trigger() -> None:
    assert {status for status, _, _ in PAIRS} == {status.value for status in JobStatus}
    assert {trigger for _, trigger, _ in PAIRS} == {trigger.value for trigger in Trigger}
    assert len(PAIRS) == len(JobStatus) * len(Trigger) == 72
    assert len(TRANSITIONS) == sum(target != "-" for _, _, target in PAIRS)


@pytest.mark.parametrize(("status", "trigger", "target"), PAIRS)
def test_every_pair(status: str, trigger: str, target: str) -> None:
    if target == "-":
        with pytest.raises(IllegalTransition, match=f"no edge {trigger} from {status}"):
            advance(JobStatus(status), Trigger(trigger))
    else:
        assert advance(JobStatus(status), Trigger(trigger)) is JobStatus(target)


def test_the_states_are_partitioned() -> None:
    assert set(ACTIVE) == {"pending", "starting", "running"}
    assert set(ENDED) == {"completed", "failed", "timed_out", "cancelled"}
    assert set(TERMINAL) == ENDED | {"cleaning", "cleaned"}
    assert not ACTIVE & TERMINAL
    assert set(JobStatus) == ACTIVE | TERMINAL


def test_nothing_leaves_terminal_but_to_be_cleaned_and_every_way_ends() -> None:
    for (source, _), target in TRANSITIONS.items():
        assert not (source in TERMINAL and target in ACTIVE | ENDED)
    order = ("pending", "starting", "running", *ENDED, "cleaning", "cleaned")
    for (source, _), target in TRANSITIONS.items():
        assert order.index(target) > order.index(source)  # no cycle: every job comes to an end
    assert {s for s, _ in TRANSITIONS} == set(JobStatus) - {JobStatus.CLEANED}
