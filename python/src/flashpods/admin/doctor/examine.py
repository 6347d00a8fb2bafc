"""Runs the checks one after the other; one that can't look is a finding of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

from flashpods.admin.command import AdminError
from flashpods.admin.doctor import identity, images, jobs, network, services, storage, trust
from flashpods.admin.doctor.finding import Check, Finding, Look, Severity
from flashpods.admin.live import LiveApi
from flashpods.admin.units import Units
from flashpods.config import Settings

LOOKS: Final = 3
PAUSE_SECONDS: Final = 1.2  # the API looks at its parts once a second, for all who ask

CHECKS: Final = (
    Check(name="api", run=services.api),
    Check(name="api health", run=services.degraded),
    Check(name="units", run=services.units),
    Check(name="podman", run=services.podman),
    Check(name="database", run=storage.database),
    Check(name="disks", run=storage.disks),
    Check(name="backups", run=storage.backups),
    Check(name="backups elsewhere", run=storage.elsewhere),
    Check(name="jobs", run=jobs.jobs),
    Check(name="images", run=images.images),
    Check(name="containers", run=jobs.orphans),
    Check(name="cleanup", run=storage.cleanup),
    Check(name="spire agent", run=identity.agent),
    Check(name="spire server", run=identity.server),
    Check(name="spire authority", run=trust.authority),
    Check(name="token service", run=identity.tokens),
    Check(name="identities presented", run=trust.mismatches),
    Check(name="wireguard", run=network.wireguard),
    Check(name="firewall", run=network.firewall),
)


def take(settings: Settings) -> Look:
    """Look at what all checks see; a part that is slow once is no trouble yet."""
    api = LiveApi(settings)
    health = api.health()
    for _ in range(LOOKS - 1):
        if health is None or health.healthy:
            break
        time.sleep(PAUSE_SECONDS)
        health = api.health()
    return Look(
        settings=settings, now=datetime.now(UTC), health=health, units=Units.of_this_machine()
    )


def examine(look: Look, checks: Sequence[Check] = CHECKS) -> Iterator[tuple[Check, list[Finding]]]:
    """Yield each check with what it found."""
    for check in checks:
        yield check, _run(check, look)


def _run(check: Check, look: Look) -> list[Finding]:
    try:
        return check.run(look)
    except AdminError as e:
        reason = e.message
    except Exception as e:  # noqa: BLE001 - a defect of one check hides no other's finding
        reason = f"{type(e).__name__}: {e}"
    return [
        Finding(
            code="not_examined",
            severity=Severity.WARNING,
            symptom=f"{check.name} could not be examined",
            cause=reason[:300],
            remedy=(),
            anchor="troubleshooting",
        )
    ]
