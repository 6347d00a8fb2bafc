"""A configuration that can't be used says so in one line, and names the key."""

import json
import re
from pathlib import Path

import pytest

from flashpods.config import load, read_tokens
from flashpods.config_base import ConfigError


def write(tmp_path: Path, data: object) -> Path:
    file = tmp_path / "settings.json"
    file.write_text(data if isinstance(data, str) else json.dumps(data))
    return file


def test_an_empty_object_is_the_contracts_defaults(tmp_path: Path) -> None:
    settings = load(write(tmp_path, {}))
    assert str(settings.http.host) == "10.0.0.1"
    assert settings.http.port == 8080
    assert settings.output.log_bytes == 50 * 1024**2
    assert settings.jobs.agent.max_cpus == 4
    assert not settings.development.allow_unenforced_limits


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("[", "not JSON"),
        ([], "one JSON object"),
        ({"htp": {}}, "unknown key 'htp'"),
        ({"http": {"prot": 1}}, "unknown key 'http.prot' (did you mean 'http.port'?)"),
        ({"htpp": {}}, "unknown key 'htpp' (did you mean 'http'?)"),
        ({"jobs": {"agent": {"cpu": 1}}}, "did you mean 'jobs.agent.cpus'?"),
        ({"tokens": {"policy": {"spiffe://a/b": {"job_typ": 1}}}}, "unknown key 'tokens.policy."),
        ({"http": {"port": 70000}}, "http.port"),
        ({"http": {"host": "everywhere"}}, "http.host"),
        ({"jobs": {"worker": {"cpus": 9}}}, "jobs.worker.max_cpus"),
        ({"disk": {"warn_percent": 90}}, "disk.warn_percent"),
        ({"podman": {"network": "host"}}, "podman.network"),
        ({"jobs": {"worker": {"image": "dir:/etc"}}}, "jobs.worker.image"),
        ({"jobs": {"agent": {"image": ""}}}, "jobs.agent.image"),
        ({"jobs": {"agent": {"command": ""}}}, "jobs.agent.command"),
        ({"jobs": {"agent": {"command": "a\nb"}}}, "jobs.agent.command"),
        ({"jobs": {"agent": {"git_url": "git@github.com:me/x"}}}, "jobs.agent.git_url"),
        ({"jobs": {"agent": {"git_url": "https://me:token@github.com/x"}}}, "jobs.agent.git_url"),
        ({"jobs": {"worker": {"git_url": "https://github.com/x"}}}, "jobs.worker.git_url"),
    ],
)
def test_refusals_name_the_key(tmp_path: Path, data: object, says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)) as refused:
        load(write(tmp_path, data))
    assert "\n" not in str(refused.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "nothing.json")


def test_the_environment_overrides_one_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASHPODS_SETTINGS__HTTP__PORT", "9999")
    settings = load(write(tmp_path, {"http": {"host": "127.0.0.1"}}))
    assert (str(settings.http.host), settings.http.port) == ("127.0.0.1", 9999)


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("FLASHPODS_SETTINGS__FOO", "1", "FLASHPODS_SETTINGS__FOO.*HTTP, PATHS"),
        ("FLASHPODS_SETTINGS__HTP__PORT", "1", "FLASHPODS_SETTINGS__HTP__PORT.*HTTP, PATHS"),
        ("flashpods_settings__htp__port", "1", "flashpods_settings__htp__port.*HTTP, PATHS"),
        ("FLASHPODS_SETTINGS__", "1", "FLASHPODS_SETTINGS__.*HTTP, PATHS"),
        ("FLASHPODS_SETTINGS__HTTP__PROT", "1", "unknown key 'http.prot'"),
        ("FLASHPODS_SETTINGS__HTTP__PORT__X", "1", "http.port"),
        ("FLASHPODS_SETTINGS__JOBS__WORKER__CPU", "1", "unknown key 'jobs.worker.cpu'"),
        ("FLASHPODS_SETTINGS__HTTP", "1", "environment|http"),
    ],
)
def test_an_unknown_variable_of_ours_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, says: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=says) as refused:
        load(write(tmp_path, {}))
    assert "\n" not in str(refused.value)


def test_json_that_is_nested_too_deeply_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nested too deeply"):
        load(write(tmp_path, "[" * 100_000))


def test_other_variables_are_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path, {})
    before = load(file)
    monkeypatch.setenv("FLASHPODS_SETTINGS_FILE", "/nowhere")
    monkeypatch.setenv("FLASHPODS_SETTINGS_X", "1")
    assert load(file) == before


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"short",
        b"a" * 600,
        b"with space in the middle",
        "ü".encode() * 20,
        b"x" * 20 + b"\n" + b"y" * 20 + b"\n" + b"z" * 20,
    ],
)
def test_bad_token_files_are_refused_without_showing_them(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="token_file") as refused:
        read_tokens(file)
    if content.strip():
        assert content.decode() not in str(refused.value)


def test_two_tokens_are_a_rotation(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("a" * 32 + "\n" + "b" * 32 + "\n")
    assert read_tokens(file) == (b"a" * 32, b"b" * 32)
