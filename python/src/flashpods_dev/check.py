"""``./dev check``: format, lint, types, import rules, lock file, bill of materials, scripts."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from flashpods_dev import helper_build, sbom
from flashpods_dev.caller import give_back
from flashpods_dev.machine import StackError
from flashpods_dev.nix import lint as nix_lint
from flashpods_dev.nix import manifest
from flashpods_dev.report import Steps, say

PLACES_OF_PYTHON = (".", "../checks")
PLACES = re.compile(
    r"https?://|(?:^|\s)(?:-i|-f|--(?:extra-)?index-url|--find-links|--trusted-host)\b|\s@\s"
)


def lock_faults(lock: str, pyproject: str) -> list[str]:
    """Return what is wrong with the lock file, as lines for a person.

    It must pin every direct dependency of ``pyproject.toml`` within its bounds, each with hashes,
    and name no index and no host.
    """
    faults, pinned = [], {}
    for number, line in enumerate(lock.splitlines(), 1):
        code = line.split("#", 1)[0]
        if PLACES.search(code):
            faults.append(f"line {number} names an index or a host")
        if found := re.match(r"([A-Za-z0-9._-]+)==([^\s;\\]+)", code):
            pinned[canonicalize_name(found[1])] = found[2]
    entries = re.split(r"\n(?=[A-Za-z0-9])", lock)
    faults += [
        f"{entry.split('==')[0]} has no hash"
        for entry in entries
        if re.match(r"[A-Za-z0-9._-]+==", entry) and "--hash=sha256:" not in entry
    ]
    project = tomllib.loads(pyproject)["project"]
    groups = [project["dependencies"], *project.get("optional-dependencies", {}).values()]
    for requirement in (Requirement(text) for group in groups for text in group):
        version = pinned.get(canonicalize_name(requirement.name))
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            faults.append(f"{requirement} is locked as {version}: run uv pip compile again")
    return faults


def _check_go(checkout: Path, steps: Steps) -> list[str]:
    """Check the helper's Go, if there is a Go; return the names of what failed.

    ``./dev test`` has its tests, and brings a Go of its own.
    """
    source = checkout / helper_build.PLACE
    toolchain = helper_build.toolchain_here(checkout / ".dev")
    if toolchain is None:
        say("NOT CHECKED: the Go of pkgs/flashpods-token, because there is no Go here: install it")
        return []
    failed = []
    formatter = Path(toolchain.program).with_name("gofmt")
    unformatted = subprocess.run(
        [formatter, "-l", "."], cwd=source, capture_output=True, text=True, timeout=60, check=False
    )
    if unformatted.returncode or unformatted.stdout:
        failed.append("gofmt")
        print(f"gofmt -w: {unformatted.stdout}{unformatted.stderr}", file=sys.stderr)
    try:
        toolchain.run("vet", "./...", cwd=source, seconds=600)
    except StackError as e:
        failed.append("go vet")
        print(e, file=sys.stderr)
    steps.done(f"gofmt, go vet{' FAILED' if failed else ''}")
    return failed


def scripts(checkout: Path) -> list[Path]:
    """Return the shell scripts of the checkout."""
    names = ("dev", ".ci/run", "lab/init", "lab/oci-runtime", "pkgs/agent-image/entrypoint.sh")
    return [checkout / name for name in names]


def run(checkout: Path) -> int:
    """Run every check, the later ones also when an earlier one fails; return 0 or 1."""
    python = checkout / "python"
    tools = Path(sys.executable).parent
    commands = {
        "ruff format": [tools / "ruff", "format", "--check", "--quiet", *PLACES_OF_PYTHON],
        "ruff check": [
            *(tools / "ruff", "check", "--quiet", "--output-format=concise", *PLACES_OF_PYTHON)
        ],
        "mypy": [
            *(Path(sys.executable), "-m", "flashpods_dev.typecheck"),
            *(python, checkout / ".dev" / "mypy"),
        ],
        "import rules": [tools / "lint-imports", "--no-logo"],
    }
    if linter := shutil.which("shellcheck"):
        commands["shellcheck"] = [Path(linter), *scripts(checkout)]
    steps = Steps()
    failed = _check_go(checkout, steps)
    for name, command in commands.items():
        done = subprocess.run(
            [str(word) for word in command],
            cwd=python,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if done.returncode:
            failed.append(name)
            print(done.stdout + done.stderr, file=sys.stderr)
        steps.done(f"{name}{' FAILED' if done.returncode else ''}")
    stale = list(manifest.faults(checkout))
    for fault in stale:
        say(fault)
    failed += ["lab/rendered"] if stale else []
    failed += nix_lint.check(checkout, steps)
    lock = (python / "requirements.lock").read_text()
    faults = lock_faults(lock, (python / "pyproject.toml").read_text())
    faults += sbom.install_faults((checkout / "dev").read_text())
    faults += sbom.environment_faults(lock)
    count = sbom.write(checkout, checkout / ".dev" / "sbom.cdx.json")
    steps.done(f"bill of materials, .dev/sbom.cdx.json, {count} components")
    for fault in faults:
        say(f"requirements.lock: {fault}")
    failed += ["requirements.lock"] if faults else []
    say(f"check: {'failed: ' + ', '.join(failed) if failed else 'all passed'}")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(run(Path(sys.argv[1])))
    finally:
        give_back(Path(sys.argv[1]))
