"""``config init``, ``config show``, ``schema`` and ``completion``."""

import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from typer.testing import CliRunner

from flashpods.cli.main import app
from flashpods.cli.schemas import SCHEMAS


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("TOKEN", "TOKEN_FILE", "URL"):
        monkeypatch.delenv(f"FLASHPODS_API_{name}", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("FLASHPODS_CONFIG", raising=False)
    return tmp_path / ".config" / "flashpods"


def call(*words: str, stdin: str = "") -> Any:
    result = CliRunner().invoke(app, list(words), input=stdin)
    assert "s3cret" not in result.output
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_init_writes_both_files(place: Path) -> None:
    words = ("config", "init", "--host", "pods.example", "--port", "81", "--gitignore")
    result = call(*words, "--token-stdin", "--json", stdin="s3cret\n")
    assert result.exit_code == 0
    answer = json.loads(result.stdout)
    jsonschema_rs.validator_for(SCHEMAS["config init"]).validate(answer)
    assert answer["token_written"] is True
    assert json.loads((place / "config.json").read_text()) == {
        "api_host": "pods.example",
        "api_port": 81,
        "gitignore": True,
    }
    assert (place / "token").read_text() == "s3cret\n"
    assert stat.S_IMODE((place / "token").stat().st_mode) == 0o600
    shown = json.loads(call("config", "show", "--json").stdout)
    jsonschema_rs.validator_for(SCHEMAS["config show"]).validate(shown)
    assert (shown["base_url"], shown["gitignore"]) == ("http://pods.example:81", True)
    assert shown["token_source"] == str(place / "token")
    assert "http://pods.example:81" in call("config", "show").stdout


def test_what_is_there_stays_unless_it_is_forced(place: Path) -> None:
    assert call("config", "init", "--host", "a", "--token-stdin", stdin="s3cret").exit_code == 0
    before = {path.name: path.read_text() for path in place.iterdir()}
    for words, stdin in (
        (("--host", "b"), ""),
        (("--host", "a", "--token-stdin"), "s3cret-other"),
    ):
        result = call("config", "init", *words, stdin=stdin)
        assert result.exit_code == 2
        assert "--force" in result.stderr
        assert "(config_exists)" in result.stderr
        assert {path.name: path.read_text() for path in place.iterdir()} == before
    assert call("config", "init", "--port", "9").exit_code == 0  # adds, changes nothing
    assert call("config", "init", "--host", "b", "--force").exit_code == 0
    assert json.loads((place / "config.json").read_text()) == {"api_host": "b", "api_port": 9}
    assert (place / "token").read_text() == "s3cret\n"


@pytest.mark.parametrize(
    ("words", "stdin", "said"),
    [
        (("--host", "no host"), "", "api_host"),
        (("--port", "0"), "", "api_port"),
        (("--host", "h", "--token-stdin"), "", "standard input"),
        (("--host", "h", "--token-stdin"), "s3cret\x01", "standard input"),
    ],
)
def test_nothing_is_written_of_what_is_half_right(
    place: Path, words: tuple[str, ...], stdin: str, said: str
) -> None:
    result = call("config", "init", *words, stdin=stdin)
    assert result.exit_code == 2
    assert said in result.stderr
    assert not place.exists()


def test_the_token_of_a_configuration_for_all_users_is_the_users_own(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everybodys = tmp_path / "etc" / "client.json"
    everybodys.parent.mkdir()
    everybodys.write_text('{"api_host": "pods.example"}\n')
    monkeypatch.setenv("FLASHPODS_CONFIG", str(everybodys))
    result = call("config", "init", "--token-stdin", stdin="s3cret")
    assert result.exit_code == 0
    assert f"wrote {place / 'token'}\n" in result.stderr
    assert (place / "token").read_text() == "s3cret\n"
    assert [path.name for path in everybodys.parent.iterdir()] == ["client.json"]
    shown = json.loads(call("config", "show", "--json").stdout)
    assert (shown["api_host"], shown["token_source"]) == ("pods.example", str(place / "token"))


def test_a_token_that_would_not_count_is_not_written(place: Path) -> None:
    place.mkdir(parents=True)
    (place / "config.json").write_text('{"token_file": "/run/secrets/pods"}\n')
    result = call("config", "init", "--token-stdin", stdin="s3cret")
    assert result.exit_code == 2
    assert "/run/secrets/pods" in result.stderr
    assert "(config_exists)" in result.stderr
    assert not (place / "token").exists()


def test_show_without_a_token(place: Path) -> None:
    result = call("config", "show", "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["error"] == "missing_token"


def test_doctor_without_a_configuration_skips_the_rest(place: Path) -> None:
    result = call("doctor", "--json")
    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    jsonschema_rs.validator_for(SCHEMAS["doctor"]).validate(answer)
    found = {check["name"]: check for check in answer["checks"]}
    assert found["configuration"]["status"] == "failed"
    assert "config init" in found["configuration"]["remedy"]
    assert {found[n]["status"] for n in ("host", "token", "rsync daemon")} == {"skipped"}


def test_schemas_are_schemas() -> None:
    for name in SCHEMAS:
        result = call("schema", name)
        assert result.exit_code == 0
        schema = json.loads(result.stdout)
        jsonschema_rs.meta.validate(schema)
        assert schema["$schema"].endswith("2020-12/schema")
    every = json.loads(call("schema").stdout)
    assert set(every["$defs"]) == set(SCHEMAS)
    unknown = call("schema", "nonsense")
    assert (unknown.exit_code, unknown.stdout) == (2, "")
    assert "uploads show" in unknown.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    words = [sys.executable, "-m", "flashpods.cli.main", "completion", shell]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    assert "_FLASHPODS_COMPLETE=complete_" in done.stdout
    assert done.stderr == ""


def test_version() -> None:
    assert call("--version").stdout.startswith("flashpods 0.")
