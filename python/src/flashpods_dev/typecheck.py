"""``python -m flashpods_dev.typecheck PYTHON SCRATCH``: mypy over src and tests in one run.

The tests import each other by base name, as pytest does, and each conftest.py is a module
``conftest``, of which mypy takes only one: they are checked as links in SCRATCH, under names of
their own, and reported under their paths.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

SECONDS: Final = 600.0


def link_conftests(python: Path, scratch: Path) -> dict[Path, Path]:
    """Return a link for each conftest.py: link → file. Runs at the same time are fine."""
    scratch.mkdir(parents=True, exist_ok=True)
    links = {}
    for conftest in sorted((python / "tests").rglob("conftest.py")):
        link = scratch / f"{conftest.parent.name}_conftest.py"
        with suppress(FileExistsError):
            link.symlink_to(os.path.relpath(conftest, scratch))
        links[link] = conftest
    return links


def check(python: Path, scratch: Path) -> tuple[int, str]:
    """Return mypy's exit code and what it says; ``python`` has pyproject.toml, src and tests."""
    python, scratch = python.resolve(), scratch.resolve()
    links = link_conftests(python, scratch)
    modules = [f for f in sorted((python / "tests").rglob("*.py")) if f.name != "conftest.py"]
    packages = sorted(path.parent for path in (python / "src").glob("*/__init__.py"))
    bases = [python / "src", *sorted({file.parent for file in modules}), scratch]
    done = subprocess.run(
        [
            *(Path(sys.executable).with_name("mypy"), "--explicit-package-bases"),
            "--no-error-summary",
            *(os.path.relpath(path, python) for path in (*packages, *modules, *links)),
        ],
        cwd=python,
        env={**os.environ, "MYPYPATH": os.pathsep.join(map(str, bases))},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    said = done.stdout + done.stderr
    for link, file in links.items():
        said = said.replace(os.path.relpath(link, python), str(file.relative_to(python)))
    return done.returncode, said


if __name__ == "__main__":
    code, text = check(Path(sys.argv[1]), Path(sys.argv[2]))
    print(text, end="")
    sys.exit(code)
