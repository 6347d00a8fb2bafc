"""Alerts and dashboard against Debian's Prometheus and a real stack: ``./dev monitoring``."""

from __future__ import annotations

import sys
from pathlib import Path

# Their helpers drive the same stacks.
for directory in ("faults", "system", "identity"):
    sys.path.insert(1, str(Path(__file__).parents[1] / directory))
