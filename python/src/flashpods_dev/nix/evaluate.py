"""NixOS's module system on our modules, by a tool that has its tree without its packages.

The tool (``nixeval``: ``assemble``, ``module``, ``flake``) and the two git snapshots that it takes
the tree from are not a part of the project: their places come by the environment, see
:data:`VARIABLES`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from flashpods_dev.machine import StackError

VARIABLES: Final = {
    "FLASHPODS_NIXEVAL": "the tool's program",
    "FLASHPODS_NIX_LIB": "GITDIR:COMMIT with nixpkgs' lib/",
    "FLASHPODS_NIX_NIXOS": "GITDIR:COMMIT with nixpkgs' nixos/",
}
SCANNED: Final = ("modules", "pkgs", "lib", "examples", "checks", "lab")  # for packages' names
SECONDS: Final = 300


@dataclass(frozen=True, slots=True)
class Report:
    """What a configuration says beyond a plain system.

    ``units``, ``etc`` and ``files`` (by store path) are texts; ``options`` is what was asked for.
    """

    assertions: list[str]
    warnings: list[str]
    units: dict[str, str]
    etc: dict[str, str]
    files: dict[str, str]
    options: dict[str, Any]
    users: dict[str, dict[str, Any]]
    groups: dict[str, dict[str, Any]]
    sysctl: dict[str, Any]
    tmpfiles: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, found: Mapping[str, Any]) -> Self:
        """Take the tool's JSON."""
        names = ("assertions", "warnings", "units", "etc", "options", "users", "groups", "sysctl")
        return cls(
            **{name: found[name] for name in names},
            files=found.get("files", {}),
            tmpfiles=found["tmpfiles"]["settings"],
        )


class Evaluator:
    """The tool on one assembled tree."""

    def __init__(self, program: Path, tree: Path) -> None:
        """Run nothing yet."""
        self._program = program
        self.tree = tree

    @classmethod
    def assemble(cls, checkout: Path) -> Evaluator:
        """Make or refresh the tree in ``.dev/nix``.

        Raises:
            StackError: a variable is missing, or the tool failed.
        """
        if missing := [name for name in VARIABLES if not os.environ.get(name)]:
            wants = "; ".join(f"{name}: {VARIABLES[name]}" for name in missing)
            raise StackError(f"set {wants} (docs/nix.md says where they are had)")
        given = {name: os.environ[name] for name in VARIABLES}
        made = cls(Path(given["FLASHPODS_NIXEVAL"]), checkout / ".dev" / "nix" / "tree")
        made.tree.parent.mkdir(parents=True, exist_ok=True)
        flake = made.tree.with_name("flake")  # the tool scans directories
        flake.mkdir(exist_ok=True)
        shutil.copy(checkout / "flake.nix", flake)
        sources = [flake, *(checkout / name for name in SCANNED)]
        scans = [word for place in sources if place.is_dir() for word in ("--scan", str(place))]
        made._run(
            "assemble",
            *("--lib", given["FLASHPODS_NIX_LIB"], "--nixos", given["FLASHPODS_NIX_NIXOS"]),
            *scans,
            str(made.tree),
        )
        return made

    def module(self, *files: Path, options: Sequence[str] = ()) -> Report:
        """Evaluate a configuration.

        Raises:
            StackError: it does not evaluate.
        """
        wanted = [word for option in options for word in ("--option", option)]
        tree = ("--tree", str(self.tree))
        said = self._run("module", *tree, "--files", *wanted, *map(str, files), good=(0, 1))
        return Report.read(json.loads(said))

    def value(self, expression: str) -> Any:
        """Evaluate a Nix expression, in which ``pkgs`` is the tree's, to JSON.

        Raises:
            StackError: it does not evaluate.
        """
        whole = f"let pkgs = import {self.tree} {{ }}; in {expression}"
        command = ["nix-instantiate", "--eval", "--strict", "--json", "--read-write-mode"]
        try:
            done = subprocess.run(
                [*command, "--expr", whole],
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as e:
            raise StackError(f"nix-instantiate: {e}") from e
        if done.returncode:
            raise StackError(f"nix-instantiate:\n{done.stderr.strip()[-4000:]}")
        return json.loads(done.stdout)

    def flake(self, checkout: Path) -> str:
        """Evaluate every output of the flake; return what was said.

        Raises:
            StackError: one does not evaluate.
        """
        return self._run("flake", "--tree", str(self.tree), str(checkout))

    def _run(self, *arguments: str, good: Sequence[int] = (0,)) -> str:
        command = [str(self._program), *arguments]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as e:
            raise StackError(f"nixeval {arguments[0]}: {e}") from e
        if done.returncode not in good:
            raise StackError(f"nixeval {arguments[0]}:\n{done.stderr.strip()[-4000:]}")
        return done.stdout
