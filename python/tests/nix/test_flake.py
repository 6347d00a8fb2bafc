"""Every output of the flake evaluates, for this kind of machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hosts import CHECKOUT

from flashpods_dev.nix.evaluate import Evaluator

SYSTEM = "x86_64-linux"
# The flake's function on the tree's, as Nix would call it.
FLAKE = f"""
  nixpkgs = (import (TREE + "/flake.nix")).outputs {{ }};
  flake = import {CHECKOUT}/flake.nix;
  self = flake.outputs {{ inherit self nixpkgs; }} // {{ outPath = "/source"; }};
"""


def outputs(evaluator: Evaluator, expression: str) -> object:
    bound = FLAKE.replace("TREE", str(evaluator.tree))
    return evaluator.value(f"let {bound} in {expression}")


def test_the_lock_is_the_published_one() -> None:
    """A hash can't be made up: CONTRIBUTING says whence it is."""
    lock = json.loads((CHECKOUT / "flake.lock").read_text())
    assert set(lock["nodes"]) == {"root", "nixpkgs"}
    assert lock["nodes"]["nixpkgs"]["locked"] == {
        "lastModified": 1782116945,
        "narHash": "sha256-G3tw/IXmaH6IQ2upZvhuN9sG8CkuX+BLuJDpE8hz0Ds=",
        "owner": "NixOS",
        "repo": "nixpkgs",
        "rev": "34268251cf5547d39063f2c5ea9a196246f7f3a6",
        "type": "github",
    }


@pytest.mark.parametrize("kind", ["packages", "devShells"])
def test_packages_and_shells(evaluator: Evaluator, kind: str) -> None:
    found = outputs(evaluator, f"builtins.mapAttrs (_: p: p.drvPath) self.{kind}.{SYSTEM}")
    assert isinstance(found, dict)
    assert all(path.endswith(".drv") for path in found.values())
    assert "default" in found


def test_apps(evaluator: Evaluator) -> None:
    found = outputs(evaluator, f"builtins.mapAttrs (_: a: a.program) self.apps.{SYSTEM}")
    assert isinstance(found, dict)
    assert "validate" in found


def test_formatter_overlay_and_library(evaluator: Evaluator) -> None:
    said = outputs(
        evaluator,
        f"""{{
          formatter = self.formatter.{SYSTEM}.drvPath;
          overlay = builtins.attrNames (self.overlays.default pkgs pkgs);
          network = self.lib.networkOf "10.1.130.7/18";
        }}""",
    )
    assert isinstance(said, dict)
    assert said["formatter"].endswith(".drv")
    assert said["overlay"] == ["flashpods", "flashpods-token"]
    assert said["network"] == "10.1.128.0/18"


def test_the_example_is_a_system(evaluator: Evaluator) -> None:
    system = "self.nixosConfigurations.example.config.system.build.toplevel.drvPath"
    assert str(outputs(evaluator, system)).endswith(".drv")


@pytest.mark.timeout(1200)  # some 25 evaluations
def test_every_check_evaluates_with_its_nodes_and_script(evaluator: Evaluator) -> None:
    names = outputs(evaluator, f"builtins.attrNames self.checks.{SYSTEM}")
    assert isinstance(names, list)
    assert names
    for name in names:  # one by one: all at once take gigabytes
        path = outputs(evaluator, f'self.checks.{SYSTEM}."{name}".drvPath')
        assert str(path).endswith(".drv"), name


def test_the_committed_reference_is_the_modules(evaluator: Evaluator) -> None:
    text = evaluator.value(
        f"import {CHECKOUT}/lib/options.nix {{ inherit pkgs; inherit (pkgs) lib; }}"
    )
    assert text == Path(CHECKOUT, "docs", "options.md").read_text()
