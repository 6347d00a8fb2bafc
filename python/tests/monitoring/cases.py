"""For every alert and severity: series on which it fires, and near ones on which it does not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

HOUR: Final = 3600
DISK = 'flashpods_disk_used_ratio{tree="work"}'
RUNNING = 'flashpods_jobs{status="running",type="worker"}'
STARTING = 'flashpods_jobs{status="starting",type="worker"}'
QUEUED = 'flashpods_job_queue_duration_seconds_count{type="worker"}'
FAILED = "flashpods_jobs_failed_total"
UP = "flashpods_component_up"
LATENCY = "flashpods_http_request_duration_seconds_bucket"
STARTED = 'process_start_time_seconds{job="flashpods-api"}'
AUTHORITY = "flashpods_spire_authority_expiry_timestamp_seconds"
MISMATCH = 'flashpods_token_exchange_duration_seconds_count{outcome="identity_mismatch"}'
BACKUP = "flashpods_backup_last_success_timestamp_seconds"
ELSEWHERE = "flashpods_backup_elsewhere_timestamp_seconds"
UP_API = 'up{job="flashpods-api"}'
CLEANUP = "flashpods_cleanup_last_run_timestamp_seconds"

Series = dict[str, str]


@dataclass(frozen=True)
class Case:
    """Time begins at 0, a sample a minute; ``at`` is when the alert is looked at, in minutes."""

    alert: str
    severity: str
    fires: Series
    quiet: Series
    at: int = 20


def still(value: float) -> str:
    """Return a series that stays at a value for two hours."""
    return f"{value}+0x120"


def steps(count: int) -> str:
    """Return a series that rises by one a minute from the tenth on, so often, and stays."""
    return f"0+0x9 0+1x{count} {count}+0x120"


def latency(fast: int, second: int, five: int, all_: int) -> Series:
    """Return a histogram's buckets, each rising by so much a minute."""
    rows = {"0.05": fast, "1": second, "5": five, "+Inf": all_}
    return {f'{LATENCY}{{le="{le}"}}': f"0+{n}x120" for le, n in rows.items()}


CASES: Final = (
    Case("FlashpodsDiskUsageHigh", "warning", {DISK: still(0.71)}, {DISK: still(0.69)}),
    Case("FlashpodsDiskUsageHigh", "critical", {DISK: still(0.86)}, {DISK: still(0.84)}),
    Case(
        "FlashpodsComponentDown",
        "critical",
        {f'{UP}{{component="podman"}}': still(0)},
        {f'{UP}{{component="podman"}}': still(1), f'{UP}{{component="spire_agent"}}': still(0)},
    ),
    Case("FlashpodsRestarting", "warning", {STARTED: steps(3)}, {STARTED: steps(2)}),
    Case("FlashpodsRestarting", "critical", {STARTED: steps(6)}, {STARTED: steps(5)}),
    Case(
        "FlashpodsMetricsStale",
        "warning",
        {"flashpods_sample_timestamp_seconds": still(0)},
        {"flashpods_sample_timestamp_seconds": "0+60x120"},
    ),
    Case(
        "FlashpodsAPIDown",
        "critical",
        {'up{job="flashpods-api"}': still(0)},
        {'up{job="flashpods-api"}': still(1)},
    ),
    Case(
        "FlashpodsAPIDown",
        "critical",
        {'up{job="something-else"}': still(1)},
        {'up{job="flashpods-api"}': still(1), 'up{job="something-else"}': still(0)},
    ),
    Case(
        "FlashpodsAPILatencyHigh", "warning", latency(90, 98, 100, 100), latency(90, 100, 100, 100)
    ),
    Case("FlashpodsAPILatencyHigh", "critical", latency(0, 0, 90, 100), latency(0, 0, 100, 100)),
    Case("FlashpodsRunningJobsHigh", "warning", {RUNNING: still(9)}, {RUNNING: still(8)}),
    Case("FlashpodsRunningJobsHigh", "critical", {RUNNING: still(11)}, {RUNNING: still(10)}),
    Case("FlashpodsHighFailureRate", "warning", {FAILED: steps(6)}, {FAILED: steps(5)}, at=62),
    Case("FlashpodsHighFailureRate", "critical", {FAILED: steps(11)}, {FAILED: steps(10)}, at=62),
    Case(
        "FlashpodsJobsNotStarting",
        "warning",
        {STARTING: still(2), QUEUED: still(7)},
        {STARTING: still(2), QUEUED: "0+1x120"},
    ),
    Case(
        "FlashpodsDraining",
        "warning",
        {"flashpods_draining": "1+0x300"},
        {"flashpods_draining": "1+0x200 0+0x100"},
        at=250,
    ),
    Case(
        "FlashpodsSpireAgentUnhealthy",
        "critical",
        {f'{UP}{{component="spire_agent"}}': still(0)},
        {f'{UP}{{component="spire_agent"}}': still(1), f'{UP}{{component="podman"}}': still(0)},
    ),
    Case(
        "FlashpodsSpireAgentUnhealthy",
        "critical",
        {"flashpods_token_bundle_age_seconds": still(61)},
        {"flashpods_token_bundle_age_seconds": still(59)},
    ),
    Case(
        "FlashpodsTokenServiceUnhealthy",
        "critical",
        {f'{UP}{{component="token_service"}}': still(0)},
        {f'{UP}{{component="token_service"}}': still(1)},
    ),
    Case(
        "FlashpodsTokenServiceUnhealthy",
        "critical",
        {'up{job="flashpods-token-service"}': still(0)},
        {'up{job="flashpods-token-service"}': still(1)},
    ),
    Case(
        "FlashpodsCertificateExpiring",
        "warning",
        {AUTHORITY: still(8 * HOUR)},
        {AUTHORITY: still(9 * HOUR)},
    ),
    Case(
        "FlashpodsCertificateExpiring",
        "critical",
        {AUTHORITY: still(2 * HOUR)},
        {AUTHORITY: "NaN+0x120"},
    ),
    Case(
        "FlashpodsIdentityMismatch",
        "warning",
        {MISMATCH: "0+0x10 1+0x120"},
        {MISMATCH: still(1)},
        at=15,
    ),
    Case(
        "FlashpodsBackupStale",
        "warning",
        {BACKUP: still(-26 * HOUR)},
        {BACKUP: still(-25.5 * HOUR)},
    ),
    Case(
        "FlashpodsBackupStale",
        "critical",
        {BACKUP: still(-50 * HOUR)},
        {BACKUP: still(-49.5 * HOUR)},
    ),
    Case(
        "FlashpodsBackupMissing",
        "warning",
        {UP_API: f"1+0x{30 * 60}"},  # there never was one
        {UP_API: f"1+0x{30 * 60}", BACKUP: f"0+60x{30 * 60}"},
        at=27 * 60,
    ),
    Case(
        "FlashpodsBackupMissing",
        "warning",
        {UP_API: f"1+0x600 0+0x5 1+0x{30 * 60}"},  # a restart of the API does not begin it anew
        {UP_API: f"1+0x{25 * 60}"},
        at=26 * 60 + 2,
    ),
    Case(
        "FlashpodsBackupFailed",
        "warning",
        {"flashpods_backup_ok": still(0)},
        {"flashpods_backup_ok": still(1)},
    ),
    Case(
        "FlashpodsBackupElsewhereStale",
        "warning",
        {ELSEWHERE: still(-36 * HOUR)},
        {ELSEWHERE: still(-35.5 * HOUR)},
    ),
    Case(
        "FlashpodsBackupElsewhereStale",
        "critical",
        {ELSEWHERE: still(-84 * HOUR)},
        {ELSEWHERE: still(-83.5 * HOUR)},
    ),
    Case(
        "FlashpodsBackupElsewhereMissing",
        "warning",
        {ELSEWHERE: f"0+0x600 _x5 0+0x{30 * 60}"},  # a restart of the API does not begin it anew
        {ELSEWHERE: f"0+0x{25 * 60} {26 * HOUR}+0x{5 * 60}"},
        at=27 * 60,
    ),
    Case(
        "FlashpodsCleanupStale",
        "warning",
        {CLEANUP: still(0)},
        {CLEANUP: "0+60x120"},
    ),
    Case("FlashpodsCleanupStale", "critical", {CLEANUP: still(0)}, {CLEANUP: "0+60x120"}, at=64),
    Case(
        "FlashpodsCleanupFailing",
        "warning",
        {"flashpods_cleanup_failures_total": "0+1x60 60+0x60"},
        {"flashpods_cleanup_failures_total": steps(9)},
        at=62,
    ),
)
