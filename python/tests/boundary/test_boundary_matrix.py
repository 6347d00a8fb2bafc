"""What a process of the engine's user reaches from each place that it can have."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import judge
import modes
import pytest
from matrix import COLUMNS, column
from netlab import Lab, Prober

from flashpods_dev.machine import RSYNC_UID, UID

CLOSED = ("-T", "none", "-U", "none")
PLACES: dict[str, Callable[[Lab], AbstractContextManager[Prober]]] = {
    "host": lambda lab: modes.in_host(lab, UID),
    "subid": lambda lab: modes.in_host(lab, RSYNC_UID),
    "slirp": lambda lab: modes.slirp4netns(lab, "--disable-host-loopback"),
    "slirp+lo": modes.slirp4netns,
    "pasta": lambda lab: modes.pasta(lab, "--no-map-gw", *CLOSED),
    "pasta+gw": lambda lab: modes.pasta(lab, *CLOSED),
    "pasta+T": lambda lab: modes.pasta(lab, "-T", "auto", "-U", "auto"),
}


@pytest.mark.parametrize("place", COLUMNS)
def test_reaches_the_internet_and_nothing_else(lab: Lab, place: str) -> None:
    judge.judge(lab, lambda: PLACES[place](lab), column(place))
