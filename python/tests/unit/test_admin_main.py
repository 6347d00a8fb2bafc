"""The command line of flashpods-admin: each command is listed, explained, refuses in one way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flashpods.admin.command import AdminError, Command, Terminated, execute
from flashpods.admin.main import COMMANDS, app


def test_help_names_every_command_with_an_example() -> None:
    said = CliRunner().invoke(app, ["--help"])
    assert said.exit_code == 0
    for command in COMMANDS:
        assert f"  {command.examples[0]}" in said.output


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_a_command_teaches_by_example_and_speaks_json(command: Command) -> None:
    said = CliRunner().invoke(app, [command.name, "--help"])
    assert said.exit_code == 0
    assert "--json" in said.output
    assert all(example in said.output for example in command.examples)


def test_without_a_command_it_explains_itself() -> None:
    said = CliRunner().invoke(app, [])
    assert said.exit_code == 2
    assert "Exit codes" in said.output


def _settings(directory: Path, text: str = "{}") -> Path:
    file = directory / "settings.json"
    file.write_text(text)
    return file


def test_bad_settings_are_78_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = _settings(tmp_path, '{"htp": {}}')
    assert execute(lambda _ui, _settings: 0, as_json=True, settings=file) == 78
    answer = json.loads(capsys.readouterr().out)
    assert answer["error"] == "invalid_config"
    assert "htp" in answer["message"]


def test_a_refusal_has_its_code_and_its_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> int:
        raise AdminError("no: do it otherwise", code="not_now", exit_code=5)

    assert execute(refuse, as_json=False, settings=_settings(tmp_path)) == 5
    assert capsys.readouterr().err == "error: no: do it otherwise (not_now)\n"


@pytest.mark.parametrize(("raised", "code"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_a_signal_ends_it_as_a_shell_says(
    raised: type[BaseException], code: int, tmp_path: Path
) -> None:
    def interrupted(*_: object) -> int:
        raise raised

    assert execute(interrupted, as_json=False, settings=_settings(tmp_path)) == code
