"""The diagram that people read is the table that runs."""

import re
from pathlib import Path

from flashpods.jobs.states import TRANSITIONS

ROOT = Path(__file__).parents[3]


def test_the_diagram_is_the_table() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    drawn = set(re.findall(r"^    (\w+) --> (\w+): (\w+)$", text, re.MULTILINE))
    assert drawn == {(a.value, b.value, t.value) for (a, t), b in TRANSITIONS.items()}


def test_links_of_the_documents_lead_somewhere() -> None:
    for document in ("ARCHITECTURE.md", "README.md", "CONTRIBUTING.md"):
        for target in re.findall(r"\]\((?!http)([^)#]+)", (ROOT / document).read_text()):
            assert (ROOT / target).exists(), f"{document} links to {target}"
