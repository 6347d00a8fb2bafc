"""The alert rules by themselves: promtool, and the operations guide's table."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from cases import CASES, Case

RULES = Path(__file__).parents[3] / "modules" / "monitoring" / "alerts.yml"

# The guide's table: alert → (warning, critical) as its expression must have it.
TABLE: dict[str, tuple[str | None, str]] = {
    "FlashpodsDiskUsageHigh": ("> 0.70", "> 0.85"),
    "FlashpodsRunningJobsHigh": ("> 8", "> 10"),
    "FlashpodsHighFailureRate": ("> 5", "> 10"),
    "FlashpodsAPILatencyHigh": ("> 1", ">= 5"),
    "FlashpodsSpireAgentUnhealthy": (None, "== 0"),
    "FlashpodsTokenServiceUnhealthy": (None, "== 0"),
    "FlashpodsAPIDown": (None, "== 0"),
}


def rules() -> list[dict[str, Any]]:
    """Return all rules."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def promtool(*arguments: str) -> None:
    done = subprocess.run(
        ["promtool", *arguments], capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_takes_the_rules() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", str(RULES))


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: f"{rule['alert']}-{rule['labels']}")
def test_each_alert_says_what_is_wrong_and_where_to_read_on(rule: dict[str, Any]) -> None:
    assert re.fullmatch(r"Flashpods[A-Z][A-Za-z]+", rule["alert"])
    assert rule["labels"]["severity"] in {"warning", "critical"}
    said = rule["annotations"]
    assert set(said) == {"summary", "description", "runbook_url"}
    assert said["runbook_url"] == f"docs/operations.md#{rule['alert'].lower()}"
    assert not said["summary"].endswith(".")
    assert said["description"].endswith(".")


def test_every_row_of_the_guides_table_has_its_thresholds() -> None:
    found = {(rule["alert"], rule["labels"]["severity"]): rule["expr"] for rule in rules()}
    for alert, thresholds in TABLE.items():
        for severity, threshold in zip(("warning", "critical"), thresholds, strict=True):
            if threshold is None:
                assert (alert, severity) not in found
            else:
                assert threshold in found[alert, severity]


def test_failures_are_counted_by_the_hour() -> None:
    exprs = {rule["expr"] for rule in rules() if rule["alert"] == "FlashpodsHighFailureRate"}
    assert exprs == {f"round(increase(flashpods_jobs_failed_total[1h])) > {n}" for n in (5, 10)}


def test_every_alert_and_severity_has_a_case() -> None:
    assert {(rule["alert"], rule["labels"]["severity"]) for rule in rules()} == {
        (case.alert, case.severity) for case in CASES
    }


def unit_test(case: Case, series: dict[str, str], firing: int) -> dict[str, Any]:
    """Return a test of promtool's: how many such alerts fire at that time."""
    which = f'alertname="{case.alert}",severity="{case.severity}",alertstate="firing"'
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": f"count(ALERTS{{{which}}}) or vector(0)",
                "eval_time": f"{case.at}m",
                "exp_samples": [{"labels": "{}", "value": firing}],
            }
        ],
    }


def test_each_alert_fires_on_its_case_and_not_beside_it(tmp_path: Path) -> None:
    tests = [
        unit_test(case, series, firing)
        for case in CASES
        for series, firing in ((case.fires, 1), (case.quiet, 0))
    ]
    file = tmp_path / "alerts.test.json"  # JSON is YAML
    file.write_text(
        json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests})
    )
    promtool("test", "rules", str(file))


def test_a_case_that_is_wrong_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "alerts.test.json"
    tests = [unit_test(CASES[0], CASES[0].quiet, 1)]
    file.write_text(
        json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests})
    )
    with pytest.raises(AssertionError, match="FAILED"):
        promtool("test", "rules", str(file))
