"""The tiers that run beside pytest in ``./dev test``; only a run of everything collects this."""

from __future__ import annotations

import pytest

from flashpods_dev import lanes


@pytest.mark.timeout(lanes.SECONDS * len(lanes.TIERS))
@pytest.mark.parametrize("tier", [*lanes.TIERS])
def test_it_passes(tier: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, output = lanes.result(tier)
    with capsys.disabled():
        print(f"\n--- ./dev {tier}, which ran meanwhile\n{output}", end="")
    assert code == 0, f"./dev {tier} ended with {code}; what it printed is above"
