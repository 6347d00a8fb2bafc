"""A real Prometheus over a real stack: alerts fire and resolve, the dashboard's series exist."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import identity_rig
import picture
import pytest
from prometheus import Prometheus, eventually, scraping

from flashpods_dev.identity import build
from flashpods_dev.identity.parts import Options
from flashpods_dev.machine import UID, Machine, inside
from flashpods_dev.stack import MiniStack

DASHBOARD = Path(__file__).parents[3] / "modules" / "monitoring" / "dashboard.json"
LOGS_MB = 32
SETTINGS = {
    "http": {"rate_per_second": 1e6, "rate_burst": 1_000_000, "metrics_sample_seconds": 0.5},
    "development": {"pretend_cpus": 32, "pretend_memory_gb": 64},
    "cleanup": {"every_seconds": 1},
}


@pytest.fixture(scope="session")
def machine() -> Machine:
    return inside()


@pytest.fixture(scope="session")
def stack(machine: Machine) -> Iterator[MiniStack]:
    """A whole stack with identity, whose logs are on a small file system."""
    spire = build.ensure(machine.dev)
    state = Path(tempfile.mkdtemp(prefix="p-", dir=os.environ["FLASHPODS_TEST_TMP"]))
    state.chmod(0o755)
    logs = state / "joblogs"
    logs.mkdir()
    options = f"size={LOGS_MB}m,uid={UID},gid={UID},mode=755"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", logs], check=True)
    try:
        identity = Options(spire=spire, secrets=identity_rig.SECRETS)
        overrides = {**SETTINGS, "backup": {"elsewhere": str(state / "elsewhere")}}
        with MiniStack(state, machine, overrides=overrides, identity=identity) as stack:
            yield stack
    finally:
        subprocess.run(["umount", "-l", logs], check=True)
        shutil.rmtree(state, ignore_errors=True)


@pytest.fixture(scope="session")
def prometheus(stack: MiniStack) -> Iterator[Prometheus]:
    directory = stack.layout.root / "prometheus"
    directory.mkdir()
    with scraping(stack, directory) as found:
        yield found


@pytest.fixture(scope="session")
def client(stack: MiniStack) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {stack.layout.token.read_text().strip()}"}
    with httpx.Client(
        base_url=stack.api_url, headers=headers, trust_env=False, timeout=60
    ) as found:
        yield found


def submit(client: httpx.Client, command: str) -> str:
    body = {"type": "worker", "command": command, "cpus": 1, "memory_gb": 1}
    answer = client.post("/jobs", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["job_id"])


def ended(client: httpx.Client, job_id: str) -> str:
    while True:
        job = client.get(f"/jobs/{job_id}", params={"wait": 30}).json()
        if job["completed_at"]:
            return str(job["status"])


def has_samples(prometheus: Prometheus, query: str) -> bool:
    return bool(prometheus.get("/query", query=query)["result"])


def test_nothing_is_wrong_with_a_stack_that_is_well(
    prometheus: Prometheus, client: httpx.Client
) -> None:
    assert ended(client, submit(client, "true")) == "completed"
    for component in ("database", "podman", "spire_agent", "token_service"):
        query = f'flashpods_component_up{{component="{component}"}} == 1'
        eventually(partial(has_samples, prometheus, query), query)
    quiet = (
        *("FlashpodsAPIDown", "FlashpodsSpireAgentUnhealthy", "FlashpodsTokenServiceUnhealthy"),
        *("FlashpodsComponentDown", "FlashpodsHighFailureRate", "FlashpodsBackupStale"),
        *("FlashpodsCertificateExpiring", "FlashpodsCleanupStale", "FlashpodsRunningJobsHigh"),
    )
    for alert in quiet:
        prometheus.until(alert)  # before its first scrape an API seems to be down
    # SPIRE's authority lives 24 hours here.
    left = "flashpods_spire_authority_expiry_timestamp_seconds - time()"
    eventually(
        lambda: float(prometheus.get("/query", query=left)["result"][0]["value"][1]) > 12 * 3600,
        "the end of SPIRE's authority is known",
    )


def test_a_full_disk(stack: MiniStack, prometheus: Prometheus) -> None:
    filler = stack.layout.root / "joblogs" / "filler"
    prometheus.until("FlashpodsDiskUsageHigh", tree="logs")
    filler.write_bytes(b"x" * (LOGS_MB * 2**20 * 3 // 4))
    prometheus.until("FlashpodsDiskUsageHigh", "warning", tree="logs")
    filler.write_bytes(b"x" * (LOGS_MB * 2**20 * 9 // 10))
    prometheus.until("FlashpodsDiskUsageHigh", "warning", "critical", tree="logs")
    filler.unlink()
    prometheus.until("FlashpodsDiskUsageHigh", tree="logs")


def test_the_api_is_down(stack: MiniStack, prometheus: Prometheus) -> None:
    stack.api.kill()
    prometheus.until("FlashpodsAPIDown", "critical")
    stack.api.start()
    prometheus.until("FlashpodsAPIDown")


def test_jobs_fail(prometheus: Prometheus, client: httpx.Client) -> None:
    prometheus.until("FlashpodsHighFailureRate")
    end = time.monotonic() + 300
    while prometheus.firing("FlashpodsHighFailureRate") != {"warning", "critical"}:
        assert time.monotonic() < end, "eleven failures within a minute did not make it fire"
        jobs = [submit(client, "exit 3") for _ in range(12)]
        assert {ended(client, job_id) for job_id in jobs} == {"failed"}
    prometheus.until("FlashpodsHighFailureRate")


def test_spires_agent_is_down(stack: MiniStack, prometheus: Prometheus) -> None:
    assert stack.identity is not None
    stack.identity.agent.kill()
    prometheus.until("FlashpodsSpireAgentUnhealthy", "critical")
    stack.identity.agent.start()
    prometheus.until("FlashpodsSpireAgentUnhealthy")


def test_the_token_service_is_down(stack: MiniStack, prometheus: Prometheus) -> None:
    assert stack.identity is not None
    stack.identity.tokens.kill()
    prometheus.until("FlashpodsTokenServiceUnhealthy", "critical")
    stack.identity.tokens.start()
    prometheus.until("FlashpodsTokenServiceUnhealthy")


def test_podman_is_down(stack: MiniStack, prometheus: Prometheus) -> None:
    stack.podman.kill()
    prometheus.until("FlashpodsComponentDown", "critical", component="podman")
    stack.podman.start()
    prometheus.until("FlashpodsComponentDown", component="podman")


def test_the_backup_is_old_or_bad(stack: MiniStack, prometheus: Prometheus) -> None:
    file = stack.layout.root / "backups" / "status.json"
    file.parent.mkdir(exist_ok=True)

    def word(ok: bool, age_hours: float) -> None:
        now = time.time()
        text = {"ok": ok, "finished_at": now, "last_success_at": now - age_hours * 3600}
        file.write_text(json.dumps({**text, "size_bytes": 4096, "duration_seconds": 0.5}))

    word(False, 27)
    prometheus.until("FlashpodsBackupStale", "warning")
    prometheus.until("FlashpodsBackupFailed", "warning")
    word(False, 51)
    prometheus.until("FlashpodsBackupStale", "warning", "critical")
    word(True, 0)
    prometheus.until("FlashpodsBackupStale")
    prometheus.until("FlashpodsBackupFailed")


def test_the_copy_elsewhere_is_old(stack: MiniStack, prometheus: Prometheus) -> None:
    file = stack.layout.root / "elsewhere"
    prometheus.until("FlashpodsBackupElsewhereStale")  # there was none yet; that is another alert

    def carried(age_hours: float) -> None:
        file.touch()
        at = time.time() - age_hours * 3600
        os.utime(file, (at, at))

    carried(37)
    prometheus.until("FlashpodsBackupElsewhereStale", "warning")
    carried(85)
    prometheus.until("FlashpodsBackupElsewhereStale", "warning", "critical")
    carried(0)
    prometheus.until("FlashpodsBackupElsewhereStale")


def test_counters_do_not_fall_with_a_restart(
    stack: MiniStack, prometheus: Prometheus, client: httpx.Client
) -> None:
    ended(client, submit(client, "true"))
    names = ("flashpods_jobs_created_total", "flashpods_jobs_finished_total")

    def totals() -> list[float]:
        with httpx.Client(trust_env=False, timeout=30) as scraper:
            text = scraper.get(f"http://127.0.0.1:{stack.metrics_port}/metrics").text
        rows = [line.rpartition(" ") for line in text.splitlines() if line.startswith(names)]
        return [float(value) for _, _, value in sorted(rows)]

    before = totals()
    assert sum(before) >= 2
    stack.api.restart()
    assert totals() == before
    prometheus.until("FlashpodsAPIDown")


def expressions() -> dict[str, str]:
    """Return the dashboard's expressions by panel and letter."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in panels
        for target in panel.get("targets", ())
    }


def test_every_expression_of_the_dashboard_has_data(
    stack: MiniStack, prometheus: Prometheus, client: httpx.Client
) -> None:
    ended(client, submit(client, "exit 1"))
    client.get("/jobs/0000000000000000")
    eventually(prometheus.healthy, "all targets are scraped")
    known: set[str] = set()

    def all_known() -> bool:
        known.update(prometheus.get("/label/__name__/values"))
        return used <= known

    words = {
        w for e in expressions().values() for w in re.findall(r"\b(?:flashpods|process)_\w+", e)
    }
    used = words | {"up"}
    eventually(all_known, "every metric of the dashboard exists")
    for name, expr in expressions().items():
        query = expr.replace("$__rate_interval", "1h")  # a rate needs two samples
        eventually(partial(has_samples, prometheus, query), f"{name}: {query}")


def test_series_and_scrapes_stay_small(prometheus: Prometheus) -> None:
    """Count what the run above has left; the time is only to be seen (./dev bench measures)."""
    for job in ("flashpods-api", "flashpods-token-service"):
        query = f'scrape_samples_scraped{{job="{job}"}}'
        count = float(prometheus.get("/query", query=query)["result"][0]["value"][1])
        seconds = f'quantile_over_time(0.5, scrape_duration_seconds{{job="{job}"}}[2m])'
        took = float(prometheus.get("/query", query=seconds)["result"][0]["value"][1])
        print(f"{job}: {count:.0f} series, a scrape {took * 1000:.1f} ms")  # noqa: T201
        assert count <= 300


def test_a_picture_of_the_dashboard(
    machine: Machine, prometheus: Prometheus, client: httpx.Client
) -> None:
    """Leave the dashboard with this run's data in .dev/monitoring; the one in docs is such."""
    ended(client, submit(client, "sleep 1"))
    drawn = picture.draw(prometheus, DASHBOARD, prometheus.began, time.time())
    assert drawn.count("<polyline") >= 30
    directory = machine.dev / "monitoring"
    directory.mkdir(exist_ok=True)
    (directory / "dashboard.svg").write_text(drawn)
