"""docs/operations.md as data: its headings' anchors, its links, the commands of its blocks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

CHECKOUT: Final = Path(__file__).parents[3]
GUIDE: Final = CHECKOUT / "docs" / "operations.md"

_BLOCK: Final = re.compile(r"^( *)```sh\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_HEADING: Final = re.compile(r"^#{1,4} (.+)$", re.MULTILINE)
_LINK: Final = re.compile(r"\]\(#([^)]+)\)")
_INLINE: Final = re.compile(r"`((?:flashpods|flashpods-admin|journalctl|systemctl) [^`]+)`")


def text() -> str:
    """Return the page."""
    return GUIDE.read_text()


def commands(heading: str | None = None) -> list[str]:
    """Return each line of the shell blocks, of a section or all, in order, each once."""
    page = text() if heading is None else _section(heading)
    found = [
        line.strip()
        for block in _BLOCK.finditer(page)
        for line in block[2].splitlines()
        if line.strip()
    ]
    return list(dict.fromkeys(found))


def _section(heading: str) -> str:
    after = text().split(f"### {heading}\n", 1)[1]
    return re.split(r"^#{1,3} ", after, maxsplit=1, flags=re.MULTILINE)[0]


def inline_commands() -> list[str]:
    """Return the commands within sentences and tables."""
    return list(dict.fromkeys(_INLINE.findall(text())))


def anchors() -> set[str]:
    """Return the headings' anchors, as GitHub makes them."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in _HEADING.findall(re.sub(r"```.*?```", "", text(), flags=re.DOTALL))
    }


def links() -> set[str]:
    """Return the anchors that the page refers to."""
    return set(_LINK.findall(text()))
