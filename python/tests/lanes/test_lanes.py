"""The tiers that run beside pytest in ``./dev test``; only a run of everything collects this."""

from __future__ import annotations

import pytest

from flashpods_dev import lanes


@pytest.mark.timeout(lanes.SECONDS * len(lanes.NAMES))
@pytest.mark.parametrize("tier", lanes.NAMES)
def test_it_passes(tier: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, output = lanes.result(tier)
    with capsys.disabled():
        print(f"\n--- {tier}, which ran meanwhile\n{output}", end="")
    assert code == 0, f"{tier} ended with {code}; what it printed is above"
