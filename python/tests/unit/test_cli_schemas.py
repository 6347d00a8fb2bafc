"""Each command with ``--json`` has a schema, and some test holds what it prints against that."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from flashpods.cli.main import app
from flashpods.cli.schemas import SCHEMAS

TESTS = Path(__file__).parents[1]
HOLDING = ("json", "fits")  # of tests/system/command_line.py: the schema's name comes first


def with_json(command: Any, path: tuple[str, ...] = ()) -> set[str]:
    """Return the names of the commands that take ``--json``."""
    if hasattr(command, "commands"):
        found = (with_json(inner, (*path, name)) for name, inner in command.commands.items())
        return set().union(*found)
    has = any("--json" in parameter.opts for parameter in command.params)
    return {" ".join(path)} if has else set()


def held(tree: ast.AST) -> Iterator[str]:
    """Yield the schemas that a test file holds answers against."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(
                func=ast.Attribute(attr=name) | ast.Name(id=name),
                args=[ast.Constant(value=str(schema)), *_],
            ) if name in HOLDING:
                yield schema
            case ast.Subscript(value=ast.Name(id="SCHEMAS"), slice=ast.Constant(value=schema)):
                yield str(schema)


def test_every_command_with_json_has_a_schema() -> None:
    assert with_json(typer.main.get_command(app)) | {"error"} == set(SCHEMAS)


def test_every_schema_is_held_against_an_answer() -> None:
    files = TESTS.rglob("test_*.py")
    assert set(SCHEMAS) <= {name for file in files for name in held(ast.parse(file.read_text()))}
