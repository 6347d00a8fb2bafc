"""Tables for a person: one look for all commands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from flashpods.cli.terminal import plain

if TYPE_CHECKING:
    from flashpods.cli.session import Ui

__all__ = ["show"]


def show(ui: Ui, headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a line a row; a cell that is rich's text keeps its colour, the rest is made safe."""
    table = Table(box=None, pad_edge=False, header_style="bold", show_header=any(headings))
    for number, heading in enumerate(headings):
        table.add_column(heading, no_wrap=number + 1 < len(headings), overflow="fold")
    for row in rows:
        table.add_row(*(c if isinstance(c, Text) else Text(plain(c)) for c in row))
    ui.console().print(table)
