"""The doctor names the jobs that presented an identity which was not theirs."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
from backup_rig import NOW, new_job, settings_in, submit

from flashpods.adapters.sqlite.store import SqliteStore
from flashpods.admin.doctor import trust
from flashpods.admin.doctor.finding import Finding, Look, Severity
from flashpods.admin.units import Units
from flashpods.config_identity import Identity
from flashpods.jobs.model import Outcome, Step
from flashpods.jobs.states import JobStatus, Trigger

DOMAIN = "spiffe://flashpods.local"
THIEF, GONE = new_job(1).id, new_job(2).id


def line(job: str | None, outcome: str = "identity_mismatch") -> str:
    """Return a line of the audit, as the service writes it."""
    fields = {"outcome": outcome, "spiffe_id": f"{DOMAIN}/agent", "job_id": job, "pid": 7}
    return json.dumps({**fields, "event": "token exchange", "level": "info"})


class Journal(Units):
    """Has these lines of the token service's; read by root, which ./dev test is."""

    def __init__(self, *lines: str) -> None:
        self._lines = list(lines)

    def journal(self, unit: str, pattern: str, *, since: str, most: int) -> list[str]:
        assert (unit, since) == ("flashpods-token-service.service", "-1h")
        return [text for text in self._lines if pattern in text][-most:]


async def database(path: Path, *, ended: bool) -> None:
    async with await SqliteStore.open(path) as store:
        await submit(store, 1)
        if ended:
            step = Step(why="killed", at=NOW, outcome=Outcome())
            await store.advance(THIEF, JobStatus.PENDING, Trigger.CANCEL, step)


def examined(root: Path, *lines: str, ended: bool = False) -> list[Finding]:
    settings = settings_in(root).model_copy(update={"identity": Identity(enabled=True)})
    asyncio.run(database(settings.paths.database, ended=ended))
    seen = Look(settings=settings, now=NOW, health=None, units=Journal(*lines))
    assert trust.mismatches(replace(seen, units=None)) == []
    return trust.mismatches(seen)


@pytest.mark.parametrize("ended", [False, True])
def test_a_thief_is_named_until_it_has_ended(tmp_path: Path, *, ended: bool) -> None:
    lines = (line(THIEF), "no JSON: identity_mismatch", "[1]", line(THIEF), line(GONE, "ok"))
    (found,) = examined(tmp_path, *lines, ended=ended)
    assert found.evidence == (f"{THIEF} presented {DOMAIN}/agent, 2 times",)
    assert found.severity is (Severity.NOTICE if ended else Severity.WARNING)
    assert found.remedy[-1] == "flashpods kill JOB"


def test_a_process_of_the_host_and_a_job_that_is_forgotten(tmp_path: Path) -> None:
    (found,) = examined(tmp_path, line(None), line(GONE))
    assert [e.split(" presented")[0] for e in found.evidence] == ["a process of the host", GONE]
    assert found.severity is Severity.NOTICE


def test_nothing_was_presented(tmp_path: Path) -> None:
    assert examined(tmp_path, line(THIEF, "ok"), line(THIEF, "invalid_jwt")) == []
