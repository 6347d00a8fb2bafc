"""The table of docs/checks.md says of every script where it runs; this holds it to the code."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from flashpods.admin.validation.suite import CHECKS
from flashpods_dev.lab import script

CHECKOUT = Path(__file__).parents[3]
DOCUMENT = (CHECKOUT / "docs" / "checks.md").read_text()
COLUMNS = ["script", "what", "evaluated", "lab", "emulated VM", "NixOS VM"]


def rows() -> dict[str, dict[str, str]]:
    """Return the table, by script."""
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in DOCUMENT.splitlines()]
    start = cells.index(COLUMNS)
    found = {}
    for row in cells[start + 2 :]:
        if len(row) != len(COLUMNS):
            break
        found[row[0].strip("`")] = dict(zip(COLUMNS, row, strict=True))
    return found


def test_every_script_has_a_row_and_every_row_a_script() -> None:
    assert list(rows()) == script.names(CHECKOUT)


@pytest.mark.parametrize("name", script.names(CHECKOUT))
def test_where_it_runs(name: str) -> None:
    row = rows()[name]
    assert row["lab"] == ("no: the kernel" if name in script.NEEDS_VM else "yes")
    assert row["emulated VM"] == ("yes" if name in script.IN_VM else "no")
    # Nobody has run them there; whoever does, changes this line and the table's.
    assert row["NixOS VM"] == "never yet"


def test_what_the_lab_leaves_out_runs_in_the_emulated_machine() -> None:
    assert set(script.NEEDS_VM) <= set(script.IN_VM) <= set(script.names(CHECKOUT))
    assert script.IN_VM[-1] == "reboot"  # it cuts the power of a machine that the others use


def test_every_check_of_the_live_host_is_told() -> None:
    for check in CHECKS:
        assert f"`{check.name}`" in DOCUMENT


@pytest.mark.parametrize("name", script.names(CHECKOUT))
def test_a_script_has_named_subtests(name: str) -> None:
    tree = ast.parse((CHECKOUT / "checks" / f"{name}.py").read_text())
    titles = [
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "subtest"
        and isinstance(node.args[0], ast.Constant)
    ]
    assert len(titles) >= 2
    assert len(titles) == len(set(titles))
