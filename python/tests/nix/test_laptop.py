"""``programs.flashpods`` on NixOS and in home-manager: what it makes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import hosts
import pytest
from hosts import CHECKOUT, TOPLEVEL

from flashpods.client.config import check_values, read_values
from flashpods_dev.machine import StackError
from flashpods_dev.nix.evaluate import Evaluator, Report

LAPTOP = CHECKOUT / "modules" / "laptop"
SESSION = "environment.sessionVariables"
# home-manager, as far as ours uses it: it is not to be had here.
HOME_MANAGER = """
{ lib, ... }:
let
  any = lib.mkOption { type = lib.types.attrsOf lib.types.anything; default = { }; };
in
{
  options.home.packages = lib.mkOption { type = lib.types.listOf lib.types.package; };
  options.xdg.configFile = any;
}
"""
ON = "programs.flashpods.enable = true;"
# what is set → what the one false assertion says
WRONG = {
    'programs.flashpods.settings.token = "abc";': ("settings.token would put", "token_file"),
    'programs.flashpods.settings.token_file = "/nix/store/t";': ("is in the Nix store", "quotes"),
}
UNTYPED = {
    "programs.flashpods.settings.api_port = 70000;": "settings.api_port",
    "programs.flashpods.settings.api_host = 1;": "settings.api_host",
    'programs.flashpods.configFile = "/etc/mine.json";': "configFile",
}


def nixos(evaluator: Evaluator, directory: Path, text: str, *options: str) -> Report:
    variant = hosts.write(directory, "variant", f"{{ {ON} {text} }}")
    return evaluator.module(LAPTOP / "default.nix", variant, options=options)


def test_nixos_has_one_configuration_for_all(evaluator: Evaluator, tmp_path: Path) -> None:
    text = """programs.flashpods.settings = {
      api_host = "pods.example"; token_file = "/run/secrets/t"; gitignore = true;
    };"""
    report = nixos(evaluator, tmp_path, text, TOPLEVEL, SESSION)
    assert (report.assertions, report.warnings) == ([], [])
    values = json.loads(report.etc["flashpods/client.json"])
    assert values == {
        "api_host": "pods.example",
        "api_port": 8080,
        "gitignore": True,
        "token_file": "/run/secrets/t",
    }
    assert report.options[SESSION]["FLASHPODS_CONFIG"] == "/etc/flashpods/client.json"
    # The program takes it.
    file = tmp_path / "client.json"
    file.write_text(report.etc["flashpods/client.json"])
    read = read_values(file)
    read.pop("token_file")
    assert check_values(read, "client.json") == read


def test_home_manager_has_the_users_own(evaluator: Evaluator, tmp_path: Path) -> None:
    files = "xdg.configFile"
    report = evaluator.module(
        LAPTOP / "home.nix",
        hosts.write(tmp_path, "home-manager", HOME_MANAGER),
        hosts.write(tmp_path, "variant", f"{{ {ON} }}"),
        options=[files, "home.packages"],
    )
    assert (report.assertions, report.warnings) == ([], [])
    (name,) = report.options[files]
    assert name == "flashpods/config.json"
    source = report.options[files][name]["source"]
    assert json.loads(report.files[source]) == {"api_host": "10.0.0.1", "api_port": 8080}
    assert len(report.options["home.packages"]) == 2


@pytest.mark.parametrize("line", WRONG)
def test_no_token_gets_into_the_store(evaluator: Evaluator, tmp_path: Path, line: str) -> None:
    said = nixos(evaluator, tmp_path, line).assertions
    assert len(said) == 1, said
    for part in WRONG[line]:
        assert part in said[0]


@pytest.mark.parametrize("line", UNTYPED)
def test_a_wrong_type_does_not_evaluate(evaluator: Evaluator, tmp_path: Path, line: str) -> None:
    with pytest.raises(StackError) as caught:
        nixos(evaluator, tmp_path, line, TOPLEVEL)
    assert UNTYPED[line] in str(caught.value)
