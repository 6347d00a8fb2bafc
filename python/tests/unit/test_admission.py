"""Admission: bounds, clamping, and never more than the host has."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashpods.errors import BadRequest, InsufficientResources
from flashpods.jobs.admission import Bounds, check_fits, grant
from flashpods.jobs.model import Capacity, Grant, Reserved

BOUNDS = Bounds(
    default=Grant(cpus=2, memory_gb=4, timeout_minutes=30),
    most=Grant(cpus=8, memory_gb=16, timeout_minutes=120),
)
HOST = Capacity(cpus=32, memory_gb=128)


def ask(host: Capacity = HOST, **wanted: Any) -> tuple[Grant, list[str]]:
    values = {"cpus": None, "memory_gb": None, "timeout_minutes": None} | wanted
    return grant(**values, bounds=BOUNDS, host=host)


def test_defaults() -> None:
    assert ask() == (BOUNDS.default, [])


def test_the_maximum_itself_is_granted_silently() -> None:
    assert ask(cpus=8, memory_gb=16, timeout_minutes=120) == (BOUNDS.most, [])
    assert ask(cpus=1, memory_gb=1, timeout_minutes=1)[1] == []


def test_above_the_maximum_is_clamped_and_said() -> None:
    granted, warnings = ask(cpus=9, memory_gb=10**9, timeout_minutes=121)
    assert granted == BOUNDS.most
    assert warnings == [
        "cpus 9 is above the maximum; granted 8",
        "memory_gb 1000000000 is above the maximum; granted 16",
        "timeout_minutes 121 is above the maximum; granted 120",
    ]


@pytest.mark.parametrize("value", [0, -1, 1.5, 2.0, True, False, "2", [], {}, float("nan")])
@pytest.mark.parametrize(
    ("field", "code"),
    [
        ("cpus", "invalid_cpus"),
        ("memory_gb", "invalid_memory"),
        ("timeout_minutes", "invalid_timeout"),
    ],
)
def test_only_whole_numbers_from_one(field: str, code: str, value: Any) -> None:
    with pytest.raises(BadRequest, match=f"^{field} is .*; give a whole number") as caught:
        ask(**{field: value})
    assert caught.value.code == code


def test_a_refused_value_is_cut() -> None:
    with pytest.raises(BadRequest) as caught:
        ask(cpus="x" * 10_000)
    assert len(caught.value.message) < 200


@pytest.mark.parametrize(
    ("wanted", "code"),
    [({"cpus": 3}, "invalid_cpus"), ({"memory_gb": 7}, "invalid_memory")],
)
def test_what_never_fits_this_host_is_a_bad_request(wanted: dict[str, int], code: str) -> None:
    with pytest.raises(BadRequest, match="this host offers") as caught:
        ask(Capacity(cpus=2, memory_gb=6), **wanted)
    assert caught.value.code == code
    assert caught.value.details == {"host_capacity": {"cpus": 2, "memory_gb": 6}}


def test_defaults_shrink_to_a_small_host() -> None:
    granted, warnings = ask(Capacity(cpus=1, memory_gb=2))
    assert (granted.cpus, granted.memory_gb, warnings) == (1, 2, [])


def test_the_refusal_says_what_there_is() -> None:
    with pytest.raises(InsufficientResources) as caught:
        check_fits(
            Grant(cpus=3, memory_gb=2, timeout_minutes=1),
            Reserved(cpus=30, memory_gb=120, jobs=11),
            HOST,
        )
    assert caught.value.extra == {
        "requested": {"cpus": 3, "memory_gb": 2},
        "available": {"cpus": 2, "memory_gb": 8},
        "host_capacity": {"cpus": 32, "memory_gb": 128},
        "running_jobs": 11,
    }
    assert caught.value.status == 429


def test_a_host_that_shrank_shows_zero_free_not_less() -> None:
    with pytest.raises(InsufficientResources) as caught:
        check_fits(
            Grant(cpus=1, memory_gb=1, timeout_minutes=1),
            Reserved(cpus=40, memory_gb=200, jobs=2),
            HOST,
        )
    assert caught.value.extra["available"] == {"cpus": 0, "memory_gb": 0}


sizes = st.integers(min_value=1, max_value=40)
grants = st.builds(Grant, cpus=sizes, memory_gb=sizes, timeout_minutes=sizes)


@given(st.lists(grants, max_size=60), st.builds(Capacity, cpus=sizes, memory_gb=sizes))
def test_whatever_comes_the_host_is_never_overcommitted(
    wanted: list[Grant], host: Capacity
) -> None:
    held = Reserved()
    for one in wanted:
        fits = (
            held.cpus + one.cpus <= host.cpus and held.memory_gb + one.memory_gb <= host.memory_gb
        )
        try:
            check_fits(one, held, host)
        except InsufficientResources:
            assert not fits  # what fits is never refused
            continue
        held = Reserved(
            cpus=held.cpus + one.cpus, memory_gb=held.memory_gb + one.memory_gb, jobs=held.jobs + 1
        )
        assert held.cpus <= host.cpus
        assert held.memory_gb <= host.memory_gb


numbers = st.none() | st.integers(min_value=-3, max_value=500)


@given(numbers, numbers, numbers, st.builds(Capacity, cpus=sizes, memory_gb=sizes))
def test_a_grant_is_within_type_and_host(
    cpus: int | None, memory_gb: int | None, minutes: int | None, host: Capacity
) -> None:
    try:
        granted, _ = ask(host, cpus=cpus, memory_gb=memory_gb, timeout_minutes=minutes)
    except BadRequest:
        asked = [n for n in (cpus, memory_gb, minutes) if n is not None]
        small = (cpus or 0) > host.cpus or (memory_gb or 0) > host.memory_gb
        assert small or min(asked) < 1
        return
    assert 1 <= granted.cpus <= min(host.cpus, BOUNDS.most.cpus)
    assert 1 <= granted.memory_gb <= min(host.memory_gb, BOUNDS.most.memory_gb)
    assert 1 <= granted.timeout_minutes <= BOUNDS.most.timeout_minutes
