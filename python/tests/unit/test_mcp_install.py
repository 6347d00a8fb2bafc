"""``flashpods mcp install``: our entry, and nothing else."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from typer.testing import CliRunner

from flashpods.cli.cmd_mcp import AgentName
from flashpods.cli.main import app
from flashpods.cli.mcp_agents import AGENTS
from flashpods.cli.schemas import SCHEMAS

TOKEN = "secret-token-of-this-user"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FLASHPODS_API_TOKEN", TOKEN)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("CODEX_HOME", raising=False)
    return tmp_path


def run(*arguments: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, ["mcp", "install", *arguments, "--json"])
    assert result.exit_code == code, result.output
    answer = json.loads(result.stdout)
    schema = SCHEMAS["error"] if code else SCHEMAS["mcp install"]
    jsonschema_rs.validator_for(schema).validate(answer)
    return answer


def program(home: Path) -> Path:
    path = home / "bin" / "flashpods-mcp"
    path.parent.mkdir()
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("agent", sorted(AGENTS))
def test_every_agent_gets_it_once_and_never_the_token(home: Path, agent: str) -> None:
    where = program(home)
    first = run(agent)
    path = Path(first["path"])
    assert first["changed"]
    text = path.read_text()
    assert str(where) in text
    assert TOKEN not in text
    assert path.stat().st_mode & 0o777 == 0o600
    assert run(agent)["changed"] is False
    assert path.read_text() == text
    read = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    assert read == {AGENTS[agent].key: {"flashpods": first["entry"]}}


@pytest.mark.parametrize("agent", sorted(set(AGENTS) - {"codex"}))
def test_other_entries_of_json_stay(home: Path, agent: str) -> None:
    path = Path(run(agent, "--print")["path"])
    assert not path.exists()
    key = AGENTS[agent].key
    path.parent.mkdir(parents=True, exist_ok=True)
    old = {"theme": "é", key: {"other": {"command": "x"}, "flashpods": {"command": "old"}}}
    path.write_text(json.dumps(old))
    path.chmod(0o640)
    entry = run(agent)["entry"]
    old[key]["flashpods"] = entry  # type: ignore[index] # a dict
    assert json.loads(path.read_text()) == old
    assert list(json.loads(path.read_text())[key]) == ["other", "flashpods"]
    assert path.stat().st_mode & 0o777 == 0o640


def test_toml_keeps_comments_and_other_tables(home: Path) -> None:
    path = home / ".codex" / "config.toml"
    path.parent.mkdir()
    path.write_text(
        '# mine\nmodel = "m"  # dear\n\n[mcp_servers.flashpods]\ncommand = "old"\n'
        '[mcp_servers.flashpods.env]\nA = "b"\n\n[mcp_servers.other]\ncommand = "x"\n'
        "args = [\n  '[mcp_servers.flashpods]',\n]\n"
    )
    run("codex")
    text = path.read_text()
    assert text.startswith('# mine\nmodel = "m"  # dear\n')
    read = tomllib.loads(text)
    assert read["mcp_servers"]["other"] == {"command": "x", "args": ["[mcp_servers.flashpods]"]}
    assert read["mcp_servers"]["flashpods"] == {
        "command": "uvx",
        "args": ["--from", "flashpods", "flashpods-mcp"],
        "tool_timeout_sec": 120,
    }
    assert run("codex")["changed"] is False


@pytest.mark.parametrize(
    ("agent", "text"),
    [
        ("cursor", "{ // a comment\n}"),
        ("cursor", "[]"),
        ("cursor", '{"mcpServers": []}'),
        ("codex", "x = ["),
        ("codex", 'mcp_servers = {flashpods = {command = "x"}}\n'),
        ("codex", "mcp_servers = 3\n"),
    ],
)
def test_what_can_not_be_changed_safely_is_left_alone(home: Path, agent: str, text: str) -> None:
    path = Path(run(agent, "--print")["path"])
    path.parent.mkdir(parents=True)
    path.write_text(text)
    answer = run(agent, code=2)
    assert answer["error"] == "invalid_config"
    assert "left alone" in answer["message"]
    assert path.read_text() == text
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_projects_file_has_no_path_of_this_machine(home: Path, tmp_path: Path) -> None:
    program(home)
    project = tmp_path / "project"
    project.mkdir()
    answer = run("claude-code", "--project", str(project))
    assert answer["path"] == str(project / ".mcp.json")
    assert answer["entry"] == {"type": "stdio", "command": "flashpods-mcp", "args": []}
    assert run("windsurf", "--project", str(project), code=2)["error"] == "invalid_config"


def test_the_command_line_knows_the_same_agents() -> None:
    assert [name.value for name in AgentName] == list(AGENTS)


def test_a_command_of_ones_own(home: Path) -> None:
    answer = run("cursor", "--command", "nix run .#mcp -- --log-level info")
    assert answer["entry"] == {
        "command": "nix",
        "args": ["run", ".#mcp", "--", "--log-level", "info"],
    }
    for wrong in ("'", " "):
        result = CliRunner().invoke(app, ["mcp", "install", "cursor", "--command", wrong])
        assert result.exit_code == 2
    assert CliRunner().invoke(app, ["mcp", "install", "emacs"]).exit_code == 2


def test_a_link_to_the_file_stays_a_link(home: Path, tmp_path: Path) -> None:
    real = tmp_path / "dotfiles.json"
    real.write_text("{}")
    link = home / ".cursor" / "mcp.json"
    link.parent.mkdir()
    link.symlink_to(real)
    assert run("cursor")["changed"]
    assert link.is_symlink()
    assert "flashpods" in json.loads(real.read_text())["mcpServers"]


def test_print_shows_what_to_add(home: Path) -> None:
    result = CliRunner().invoke(app, ["mcp", "install", "codex", "--print"])
    assert result.exit_code == 0
    shown = tomllib.loads(result.stdout)["mcp_servers"]["flashpods"]
    assert shown["command"] == "uvx"
    assert not (home / ".codex").exists()
