"""docs/operations.md as data: its headings' anchors, its links, the commands of its blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass
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
    page = re.sub(r"```.*?```", "", text(), flags=re.DOTALL)
    return {_anchor(heading) for heading in _HEADING.findall(page)}


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@dataclass(frozen=True)
class Section:
    """A heading and what is below it, without what is below a heading of its own rank."""

    anchor: str
    body: str

    @property
    def symptom(self) -> str:
        """The paragraph that says what one sees; empty in a section without one."""
        found = re.search(r"^\*\*You see\*\* (.+)$", self.body, re.MULTILINE)
        return found[1] if found else ""

    def blocks(self, part: str = "") -> list[list[str]]:
        """Return the lines of its shell blocks, block by block.

        Args:
            part: only those after this mark, such as ``Look``, and before the next mark.
        """
        text = self.body
        if part:
            _, _, text = text.partition(f"**{part}.**")
            text = re.split(r"^\*\*(?:You see|Look|Do)\b", text, flags=re.MULTILINE)[0]
        return [
            [line.strip() for line in block[2].splitlines() if line.strip()]
            for block in _BLOCK.finditer(text)
        ]


def section(anchor: str) -> Section:
    """Return the section of an anchor.

    Raises:
        KeyError: there is none.
    """
    page = text()
    blank = _BLOCK.sub(lambda block: re.sub(r"[^\n]", " ", block[0]), page)  # no heading in a block
    heads = [(found.start(), found.end(), found[0]) for found in _HEADING.finditer(blank)]
    for number, (_, end, line) in enumerate(heads):
        if _anchor(line.lstrip("#").strip()) == anchor:
            rank = len(line) - len(line.lstrip("#"))
            later = (h for h in heads[number + 1 :] if len(h[2]) - len(h[2].lstrip("#")) <= rank)
            return Section(anchor, page[end : next(later, (len(page),))[0]])
    raise KeyError(anchor)


def links() -> set[str]:
    """Return the anchors that the page refers to."""
    return set(_LINK.findall(text()))
