"""The copy of the backups on another machine: a file that is touched, and who looks at its age."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flashpods.admin.backups import status as backups
from flashpods.admin.doctor import storage
from flashpods.admin.doctor.finding import Finding, Look, Severity
from flashpods.admin.status import look as status_of
from flashpods.admin.units import Units
from flashpods.config import Settings, load
from flashpods.config_base import ConfigError
from flashpods.telemetry import families
from flashpods.telemetry.sampler import Sample
from flashpods.telemetry.status import read_elsewhere, status_files

NOW = datetime(2026, 11, 26, 9, tzinfo=UTC)
NAME = "flashpods_backup_elsewhere_timestamp_seconds"


class Standing(Units):
    """systemd that has but the unit of the copy."""

    def __init__(self, state: str) -> None:
        self._state = state

    def states(self, *names: str) -> dict[str, str]:
        return dict.fromkeys(names, self._state)


def settings(tmp_path: Path, **backup: Any) -> Settings:
    return Settings(backup={"directory": tmp_path / "backups", **backup})


def asked(tmp_path: Path) -> tuple[Settings, Path]:
    """Return settings by which somebody is to carry the backups, and the file that he touches."""
    file = tmp_path / "carried"
    return settings(tmp_path, elsewhere=file), file


def carried(file: Path, ago: timedelta) -> None:
    file.touch()
    at = (NOW - ago).timestamp()
    os.utime(file, (at, at))


def backed_up(of: Settings, ago: timedelta) -> None:
    of.backup.directory.mkdir(exist_ok=True)
    at = backups.stamp(NOW - ago)
    word = backups.Status(finished_at=at, ok=True, duration_seconds=1, last_success_at=at)
    backups.write(of.backup.directory, word)


def found(of: Settings, units: Standing | None = None) -> list[Finding]:
    return storage.elsewhere(Look(settings=of, now=NOW, health=None, units=units))


def samples(sample: Sample) -> dict[str, float]:
    return {s.name: s.value for metric in families.of_sample(sample) for s in metric.samples}


def test_where_nobody_is_to_nothing_is_said(tmp_path: Path) -> None:
    of = settings(tmp_path)
    backed_up(of, timedelta(days=9))
    assert status_files(of).elsewhere is None
    assert read_elsewhere(None) is None
    assert NAME not in samples(Sample())
    assert found(of) == []


def test_the_metric_is_the_time_of_the_touch_and_zero_before_the_first(tmp_path: Path) -> None:
    of, file = asked(tmp_path)
    assert status_files(of).elsewhere == file
    assert samples(Sample(elsewhere=read_elsewhere(file)))[NAME] == 0
    carried(file, timedelta(hours=1))
    assert samples(Sample(elsewhere=read_elsewhere(file)))[NAME] == NOW.timestamp() - 3600


@pytest.mark.parametrize(
    ("made", "said"), [(None, False), (timedelta(hours=5), False), (timedelta(hours=7), True)]
)
def test_the_first_copy_is_awaited_some_hours(
    tmp_path: Path, made: timedelta | None, said: bool
) -> None:
    of, _ = asked(tmp_path)
    if made is not None:
        backed_up(of, made)
    symptoms = [f.symptom for f in found(of)]
    assert symptoms == (["no backup was ever carried elsewhere"] if said else [])


@pytest.mark.parametrize(("hours", "said"), [(35, False), (37, True)])
def test_a_night_without_a_copy_is_a_warning(tmp_path: Path, hours: int, said: bool) -> None:
    of, file = asked(tmp_path)
    backed_up(of, timedelta(hours=7))
    carried(file, timedelta(hours=hours))
    findings = found(of, Standing("absent"))
    assert bool(findings) is said
    for finding in findings:
        assert (finding.code, finding.severity) == ("backup_elsewhere", Severity.WARNING)
        assert finding.symptom == "the last copy elsewhere is of 2026-11-24 20:00:00 UTC"
        assert str(file) in finding.cause
        assert finding.remedy == (f"ls -l {file}",)  # somebody's own way


@pytest.mark.parametrize(
    ("state", "said"), [("inactive", False), ("activating", False), ("failed", True)]
)
def test_its_unit_runs_and_ends_and_may_fail(tmp_path: Path, state: str, said: bool) -> None:
    of, file = asked(tmp_path)
    carried(file, timedelta(hours=1))
    findings = found(of, Standing(state))
    assert [f.symptom for f in findings] == (["the last copy elsewhere failed"] if said else [])
    for finding in findings:
        assert finding.remedy == (
            "journalctl -u restic-backups-flashpods.service -n 50",
            "systemctl start restic-backups-flashpods.service",
        )


def test_status_shows_it(tmp_path: Path) -> None:
    of, file = asked(tmp_path)
    assert status_of(of)["backup_elsewhere"] == {"last_at": None}
    carried(file, timedelta())
    assert status_of(of)["backup_elsewhere"] == {"last_at": backups.stamp(NOW)}
    assert status_of(settings(tmp_path))["backup_elsewhere"] is None


@pytest.mark.parametrize("file", ["carried", "/var/lib/../carried"])
def test_a_path_that_means_nothing_is_refused(tmp_path: Path, file: str) -> None:
    written = tmp_path / "settings.json"
    written.write_text(json.dumps({"backup": {"elsewhere": file}}))
    with pytest.raises(ConfigError, match=r"backup\.elsewhere is .*: must be absolute"):
        load(written)
