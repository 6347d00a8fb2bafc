"""Debian's Prometheus over a stack, with the project's rules at a test's pace."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from flashpods_dev.layout import free_port
from flashpods_dev.stack import MiniStack

RULES = Path(__file__).parents[3] / "modules" / "monitoring" / "alerts.yml"
PATIENCE = 180.0  # seconds for anything to happen; on an idle machine all of it takes five
WINDOW = "60s"


def hurried(rules: str) -> str:
    """Return the rules with short times: what is to hold for minutes holds for a second.

    Thresholds, those on ages included, stay as they are.
    """
    return re.sub(r"\[\d+[mh]\]", f"[{WINDOW}]", re.sub(r"for: \d+[smh]", "for: 1s", rules))


class Prometheus:
    """A server's HTTP interface."""

    def __init__(self, port: int) -> None:
        self.began = time.time()
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{port}/api/v1", trust_env=False, timeout=30
        )

    def get(self, path: str, **query: Any) -> Any:
        answer = self.client.get(path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def firing(self, alert: str, **labels: str) -> set[str]:
        """Return the severities of which such an alert fires."""
        return {
            found["labels"]["severity"]
            for found in self.get("/alerts")["alerts"]
            if found["state"] == "firing"
            and {"alertname": alert, **labels}.items() <= found["labels"].items()
        }

    def until(self, alert: str, *severities: str, **labels: str) -> None:
        """Return once it fires with just these severities."""
        eventually(lambda: self.firing(alert, **labels) == set(severities), f"{alert} {severities}")

    def healthy(self) -> bool:
        """Whether all targets are scraped."""
        targets = self.get("/targets")["activeTargets"]
        return bool(targets) and all(target["health"] == "up" for target in targets)


def eventually(true: Callable[[], bool], what: str) -> None:
    """Return once it is true; fail after :data:`PATIENCE`."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, f"not within {PATIENCE:g} s: {what}"
        time.sleep(0.2)


@contextlib.contextmanager
def scraping(stack: MiniStack, directory: Path) -> Iterator[Prometheus]:
    """Run Prometheus over the stack's two listeners."""
    assert stack.identity is not None
    targets = {
        "flashpods-api": stack.metrics_port,
        "flashpods-token-service": stack.identity.metrics_port,
    }
    (directory / "alerts.yml").write_text(hurried(RULES.read_text()))
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(directory / "alerts.yml")],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
            for job, port in targets.items()
        ],
    }
    (directory / "prometheus.json").write_text(json.dumps(config))  # JSON is YAML
    port = free_port()
    with (directory / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={directory / 'prometheus.json'}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    prometheus = Prometheus(port)
    try:
        eventually(lambda: _answers(prometheus), "Prometheus answers")
        eventually(prometheus.healthy, "all targets are scraped")
        yield prometheus
    finally:
        prometheus.client.close()
        process.terminate()
        process.wait(30)


def _answers(prometheus: Prometheus) -> bool:
    try:
        return prometheus.client.get("/targets").status_code == 200
    except httpx.TransportError:
        return False
