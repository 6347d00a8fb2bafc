"""Whether identities have an authority that lives on, and whether somebody presented another's."""

from __future__ import annotations

import json
import os
from collections import Counter
from typing import Any, Final

from flashpods.admin.doctor.finding import Finding, Look, Severity
from flashpods.admin.opened import with_store
from flashpods.admin.units import SPIRE_AGENT, SPIRE_SERVER, TOKENS

# Of an authority's life. The server makes the next one when half of it is over; of 24 hours these
# are the 8 and the 2 of the alert.
LATE: Final = 1 / 3
LAST: Final = 1 / 12
MISMATCH: Final = "identity_mismatch"
SINCE: Final = "-1h"
MOST_LINES: Final = 500
SHOWN: Final = 8  # jobs that a finding names


def authority(look: Look) -> list[Finding]:
    """See whether SPIRE's server renewed its authority in time, and the agent has the new one."""
    if not look.settings.identity.enabled:
        return []
    from flashpods.adapters.spiffe import authorities  # noqa: PLC0415 - gRPC takes its time

    tokens = look.settings.tokens
    try:
        newest = authorities.newest(tokens.workload_api, tokens.trust_domain)
    except LookupError:
        return []  # the check of the agent says so
    left = newest.left(look.now.timestamp())
    if left > LATE:
        return []
    minutes = (newest.ends - look.now.timestamp()) / 60
    when = f"ends in {minutes:.0f} minutes" if minutes > 0 else f"ended {-minutes:.0f} minutes ago"
    return [
        Finding(
            code="spire_authority_expiring",
            severity=Severity.WARNING if left > LAST else Severity.CRITICAL,
            symptom=f"SPIRE's newest authority {when}; then no identity is good any more",
            cause="the server did not make the next one in time, or the agent has not got it",
            remedy=(
                f"journalctl -u {SPIRE_SERVER} -n 50",
                f"systemctl restart {SPIRE_SERVER}",
                f"systemctl restart {SPIRE_AGENT}",
            ),
            anchor="flashpodscertificateexpiring",
        )
    ]


def mismatches(look: Look) -> list[Finding]:
    """Name the jobs that presented an identity which was not theirs, within the last hour.

    While one of them still runs it is a warning, later a notice.
    """
    if look.units is None or not look.settings.identity.enabled or os.geteuid() != 0:
        return []
    lines = look.units.journal(TOKENS, MISMATCH, since=SINCE, most=MOST_LINES)
    seen = Counter(
        (str(line.get("job_id") or "a process of the host"), str(line.get("spiffe_id")))
        for line in map(_audit, lines)
        if line.get("outcome") == MISMATCH
    )
    if not seen:
        return []
    known = with_store(look.settings, lambda store: store.known([job for job, _ in seen]))
    live = any(job.active for job in known.values())
    evidence = [f"{job} presented {identity}, {n} times" for (job, identity), n in seen.items()]
    return [
        Finding(
            code=MISMATCH,
            severity=Severity.WARNING if live else Severity.NOTICE,
            symptom="a job presented an identity that was not issued to it, and was refused",
            cause="it tries to steal one; or registration entries are wrong, which is told apart",
            evidence=tuple(evidence[-SHOWN:]),
            remedy=(f"journalctl -u {TOKENS} --since {SINCE}", "flashpods kill JOB"),
            anchor="flashpodsidentitymismatch",
        )
    ]


def _audit(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
