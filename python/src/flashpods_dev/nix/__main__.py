"""``./dev nix render | test``: called by ./dev as ``python -m flashpods_dev.nix CHECKOUT …``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from flashpods_dev.caller import give_back
from flashpods_dev.machine import StackError
from flashpods_dev.nix.evaluate import Evaluator
from flashpods_dev.nix.manifest import RENDERED
from flashpods_dev.nix.mapping import UnmappedPath
from flashpods_dev.nix.render import render
from flashpods_dev.report import Steps, say

SECONDS = 300  # of one test


def run(checkout: Path, arguments: list[str]) -> int:
    """Run one command; return the exit code of ./dev.

    Raises:
        StackError: something does not evaluate, or what is needed is not here.
    """
    match arguments:
        case ["render"]:
            return _render(checkout)
        case ["test", *rest]:
            return _test(checkout, rest)
    say("./dev nix render, or ./dev nix test; ./dev nix --help says more")
    return 2


def _render(checkout: Path) -> int:
    steps = Steps()
    evaluator = Evaluator.assemble(checkout)
    steps.done("tree of NixOS's modules")
    written = render(checkout, evaluator)
    steps.done(f"{RENDERED}: {len(written)} files")
    return 0


def _test(checkout: Path, rest: list[str]) -> int:
    where = [] if any(word.startswith("tests/") for word in rest) else ["tests/nix"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", f"--timeout={SECONDS}", *where, *rest],
        cwd=checkout / "python",
        check=False,
    )
    return done.returncode


if __name__ == "__main__":
    place = Path(sys.argv[1])
    try:
        sys.exit(run(place, sys.argv[2:]))
    except (StackError, UnmappedPath) as e:
        say(str(e))
        sys.exit(1)
    finally:
        give_back(place)
