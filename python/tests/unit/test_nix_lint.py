"""The linters of Nix: what they find, and what is said where they are missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from flashpods_dev.nix import lint
from flashpods_dev.report import Steps

UNUSED = "let unused = 1; in { }\n"
# What cargo does with these words, without the minute that it takes: a program below --root.
CARGO = f"""
PATH=/usr/bin:/bin
here=$(dirname "$0")
case "$*" in *"--version {lint.DEADNIX} "*" deadnix") ;; *) exit 2 ;; esac
while [ "$1" != --root ]; do shift; done
mkdir -p "$2/bin"
printf '#!/bin/sh\necho "unused let binding: $2" >&2\nexit 1\n' > "$2/bin/deadnix"
chmod 755 "$2/bin/deadnix"
echo built >> "$here/../log"
"""
Prepare = Callable[..., Path]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepare:
    """Make a checkout with one Nix file, and a PATH that holds these scripts only."""

    def make(**scripts: str) -> Path:
        (tmp_path / "flake.nix").write_text(UNUSED)
        (tmp_path / "bin").mkdir()
        for name, body in scripts.items():
            script = tmp_path / "bin" / name
            script.write_text(f"#!/bin/sh\n{body}\n")
            script.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))
        return tmp_path

    return make


def test_without_cargo_it_says_what_was_not_checked(
    checkout: Prepare, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lint.check(checkout(), Steps()) == []
    said = capsys.readouterr().err
    assert "NOT CHECKED: 1 Nix files with deadnix" in said
    assert "install a Rust with cargo" in said


def test_a_build_that_fails_is_told_with_its_reason_and_leaves_nothing(
    checkout: Prepare, capsys: pytest.CaptureFixture[str]
) -> None:
    root = checkout(cargo="echo no route to crates.io >&2; exit 101")
    assert lint.check(root, Steps()) == []
    said = capsys.readouterr().err
    assert "no route to crates.io" in said
    assert "NOT CHECKED: 1 Nix files with deadnix" in said
    assert list((root / ".dev" / "cache").iterdir()) == []


def test_it_is_built_once_and_what_it_finds_fails_the_check(
    checkout: Prepare, capsys: pytest.CaptureFixture[str]
) -> None:
    root = checkout(cargo=CARGO)
    for _ in range(2):
        assert lint.check(root, Steps()) == ["deadnix"]
        assert "unused let binding" in capsys.readouterr().err
    assert (root / "log").read_text() == "built\n"
