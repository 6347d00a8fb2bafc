"""``flashpods check-config`` says ok, or in one line what is wrong, and exits as a start would."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema_rs
import pytest
from typer.testing import CliRunner

from flashpods.cli.main import app
from flashpods.cli.schemas import SCHEMAS


def run(tmp_path: Path, data: object, *options: str) -> tuple[int, str, str]:
    file = tmp_path / "settings.json"
    file.write_text(data if isinstance(data, str) else json.dumps(data))
    result = CliRunner().invoke(app, ["check-config", str(file), *options])
    if "--json" in options:
        answer = json.loads(result.stdout)
        jsonschema_rs.validator_for(SCHEMAS["check-config"]).validate(answer)
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"http": {"port": 8081, "host": "::1"}, "output": {"log_bytes": 1 << 20}},
        {"podman": {"mounts": {"/opt": "/srv/opt"}}, "paths": {"logs": "/srv/logs"}},
    ],
)
def test_good_settings_are_ok(tmp_path: Path, data: object) -> None:
    assert run(tmp_path, data) == (0, "ok\n", "")
    code, out, err = run(tmp_path, data, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {"ok": True, "file": str(tmp_path / "settings.json")}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ([], "one JSON object"),
        ({"htp": {}}, "unknown key 'htp'"),
        ({"http": {"prot\n": 1}}, "unknown key"),
        ({"http": {"port": 70000}}, "http.port"),
        ({"http": {"rate_per_second": 0}}, "http.rate_per_second"),
        ({"jobs": {"worker": {"cpus": 9}}}, "jobs.worker.max_cpus"),
        ({"jobs": {"agent": {"max_timeout_minutes": 5}}}, "jobs.agent.max_timeout_minutes"),
        ({"disk": {"warn_percent": 90}}, "disk.warn_percent"),
        ({"output": {"log_bytes": 11 << 30}}, "output.logs_total_bytes"),
        ({"output": {"artifact_file_bytes": 3 << 30}}, "output.artifact_job_bytes"),
        ({"uploads": {"total_bytes": 1}}, "uploads.max_bytes"),
        ({"uploads": {"rsync_url": "http://10.0.0.1"}}, "uploads.rsync_url"),
        ({"paths": {"logs": "logs"}}, "paths.logs is logs: must be absolute"),
        ({"paths": {"logs": "/var/../etc"}}, "paths.logs"),
        ({"paths": {"logs": "/a", "capture": "/a"}}, "paths.capture"),
        ({"paths": {"logs": "/a/b", "capture": "/a"}}, "paths.logs /a/b is in paths.capture /a"),
        ({"podman": {"mounts": {"opt": "/opt"}}}, "podman.mounts"),
    ],
)
def test_wrong_settings_are_one_line(tmp_path: Path, data: object, says: str) -> None:
    code, out, err = run(tmp_path, data)
    assert (code, out) == (78, "")
    assert err.startswith("flashpods check-config: ")
    assert err.count("\n") == 1
    assert says in err
    code, out, err = run(tmp_path, data, "--json")
    answer = json.loads(out)
    assert (code, err) == (78, "")
    assert (answer["ok"], answer["error"]) == (False, "invalid_config")
    assert says in answer["message"]


def test_all_that_is_wrong_is_named_at_once(tmp_path: Path) -> None:
    _, _, err = run(tmp_path, {"paths": {"logs": "a"}, "uploads": {"rsync_url": "x"}})
    assert "paths.logs" in err
    assert "uploads.rsync_url" in err


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        result = CliRunner().invoke(app, ["check-config", str(path)])
        assert result.exit_code == 78
        assert str(path) in result.stderr


def test_the_environment_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASHPODS_SETTINGS__HTTP__PORT", "70000")
    code, _, err = run(tmp_path, {})
    assert code == 78
    assert "http.port" in err
    monkeypatch.delenv("FLASHPODS_SETTINGS__HTTP__PORT")
    monkeypatch.setenv("FLASHPODS_SETTINGS__HTTP", "{")
    assert run(tmp_path, {})[0] == 78


def test_without_a_file_it_is_a_usage_error() -> None:
    assert CliRunner().invoke(app, ["check-config"]).exit_code == 2


def test_a_process_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text('{"http": {"port": -1}}')
    argv = [sys.executable, "-m", "flashpods.cli.main", "check-config", str(file)]
    done = subprocess.run(argv, capture_output=True, timeout=120, check=False)
    assert done.returncode == 78
    assert done.stdout == b""
    assert b"http.port" in done.stderr
    assert sorted(tmp_path.iterdir()) == [file]  # nothing was made
