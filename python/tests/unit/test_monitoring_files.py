"""The alerts lead to their runbooks. What they do is in tests/monitoring: ./dev monitoring."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

TOP = Path(__file__).parents[3]


def test_each_alert_has_its_heading_in_the_operations_guide() -> None:
    groups = yaml.safe_load((TOP / "modules" / "monitoring" / "alerts.yml").read_text())["groups"]
    links = {rule["annotations"]["runbook_url"] for group in groups for rule in group["rules"]}
    guide = (TOP / "docs" / "operations.md").read_text()
    headings = re.findall(r"^#+ (.+)$", guide, re.MULTILINE)
    # As GitHub and mdBook make anchors of plain words.
    anchors = {re.sub(r"[^a-z0-9 -]", "", text.lower()).replace(" ", "-") for text in headings}
    places = {link.removeprefix("docs/operations.md#") for link in links}
    assert len(places) >= 18
    assert places <= anchors, sorted(places - anchors)
