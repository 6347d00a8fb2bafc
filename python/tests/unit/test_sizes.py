"""No file has more than 400 lines, no function more than 50: what is longer has two concerns."""

from __future__ import annotations

import ast
import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

PYTHON = Path(__file__).parents[2]
FILE_LINES = 400
FUNCTION_LINES = 50


@pytest.fixture
def no_collection() -> Iterator[None]:
    """Before 3.11.5 a finalizer in the midst of a parse fails it (cpython, issue 106905)."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collection")
def test_files_and_functions_are_short() -> None:
    long = []
    files = [file for tree in ("src", "tests") for file in (PYTHON / tree).rglob("*.py")]
    assert len(files) > 100
    for file in files:
        name = file.relative_to(PYTHON)
        text = file.read_text()
        if (lines := len(text.splitlines())) > FILE_LINES:
            long.append(f"{name}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES:
                    long.append(f"{name}:{node.lineno}: {node.name} has {lines} lines")
    assert long == []
