"""What README and the packages repeat of other files is what those say; no Nix needed."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

CHECKOUT = Path(__file__).parents[3]
PACKAGE = (CHECKOUT / "pkgs" / "flashpods" / "package.nix").read_text()


def test_readme_shows_the_example() -> None:
    example = (CHECKOUT / "examples" / "host.nix").read_text()
    assert f"```nix\n{example}```" in (CHECKOUT / "README.md").read_text()


def test_the_package_has_the_dependencies_of_the_project() -> None:
    project = tomllib.loads((CHECKOUT / "python" / "pyproject.toml").read_text())["project"]
    texts = [*project["dependencies"], *project["optional-dependencies"]["host"]]
    wanted = {Requirement(text).name for text in texts}
    lists = PACKAGE[PACKAGE.index("As in pyproject.toml") :].split("];", 1)[0]
    words = set(re.findall(r"^ +([a-z][a-z0-9-]*)$", lists, re.MULTILINE))
    assert words == wanted


@pytest.mark.parametrize("name", ["spiffe", "sqlite-utils"])
def test_what_nixpkgs_lacks_is_the_lock_files(name: str) -> None:
    lock = (CHECKOUT / "python" / "requirements.lock").read_text()
    found = re.search(rf"^{name}==(\S+) \\\n((?:    --hash=\S+.*\n)+)", lock, re.MULTILINE)
    assert found
    written = PACKAGE[PACKAGE.index(f'pname = "{name}"') :]
    version = re.search(r'version = "([^"]+)"', written)
    digest = re.search(r'sha256 = "([0-9a-f]{64})"', written)
    assert version
    assert digest
    assert version[1] == found[1]
    assert f"sha256:{digest[1]}" in found[2]
