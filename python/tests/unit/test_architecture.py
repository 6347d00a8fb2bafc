"""The diagram that people read is the table that runs."""

import re
import subprocess
import sys
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


def test_what_the_api_never_uses_does_not_delay_its_start() -> None:
    """podman-py and what it brings are a third of the CPU time of all its imports."""
    code = (
        "import sys, flashpods.api.main, flashpods.bootstrap\n"
        "print([m for m in ('podman', 'requests', 'spiffe', 'mcp', 'typer') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
