"""Our programs as the lab's machines have them, one read-only layer: made once a state of them.

Under the paths that ``lab/rendered`` names: ``/opt/flashpods/bin``, ``/opt/spire/bin``.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import tomllib
from pathlib import Path
from typing import Final

from flashpods_dev import chroot, helper_build
from flashpods_dev.identity import build as spire_build
from flashpods_dev.lab.base import VENV
from flashpods_dev.machine import Machine
from flashpods_dev.report import Steps

__all__ = ["ensure"]

RECIPE: Final = "1"  # raise it when the way of building changes
KEPT: Final = 3  # a machine that runs may still have an older one
SOURCES: Final = "opt/flashpods/src"
SCRIPT: Final = '#!/bin/sh\nexec {venv}/bin/python -P -m {module} "$@"\n'


def ensure(machine: Machine, root: Path) -> Path:
    """Have the layer for a root of :mod:`.base` and return its directory; one builder at a time.

    Raises:
        StackError: SPIRE or the helper can't be built, or a source does not compile.
    """
    lab = machine.dev / "lab"
    spire = spire_build.ensure(machine.dev)
    helper = helper_build.ensure(machine.checkout).helper
    python = machine.checkout / "python"
    layer = lab / f"product-{_key(python, root, spire.server, helper)}"
    with (lab / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if layer.exists():
            layer.touch()
            return layer
        steps = Steps()
        new = layer.with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)
        _programs(new, python, root)
        for target, source in {
            "opt/flashpods/bin/flashpods-token": helper,
            "opt/spire/bin/spire-server": spire.server,
            "opt/spire/bin/spire-agent": spire.agent,
        }.items():
            _copy(source, new / target)
        new.rename(layer)
        kept = sorted(lab.glob("product-*"), key=lambda path: path.stat().st_mtime)
        for old in kept[:-KEPT]:
            shutil.rmtree(old)
        steps.done("programs of the lab's machines")
    return layer


def _programs(layer: Path, python: Path, root: Path) -> None:
    """Copy the sources, compile them with the root's Python, write a script a program."""
    sources = layer / SOURCES
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(python / "src" / "flashpods", sources / "flashpods", ignore=ignore)
    # Compiled in the root, because units run as users that can't write there.
    inside = root / SOURCES
    shutil.rmtree(inside, ignore_errors=True)
    shutil.copytree(sources, inside)
    chroot.run_in(root, [f"{VENV}/bin/python", "-m", "compileall", "-q", f"/{SOURCES}"])
    shutil.rmtree(sources)
    shutil.move(inside, sources)
    (site,) = (root / VENV.lstrip("/") / "lib").glob("python3*/site-packages")
    path_file = layer / site.relative_to(root) / "flashpods.pth"
    path_file.parent.mkdir(parents=True)
    path_file.write_text(f"/{SOURCES}\n")
    bin_dir = layer / "opt/flashpods/bin"
    bin_dir.mkdir()
    project = tomllib.loads((python / "pyproject.toml").read_text())["project"]
    for name, entry in project["scripts"].items():
        script = bin_dir / name
        script.write_text(SCRIPT.format(venv=VENV, module=entry.partition(":")[0]))
        script.chmod(0o755)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)
    target.chmod(0o755)


def _key(python: Path, root: Path, *programs: Path) -> str:
    """Name what the layer depends on."""
    digest = hashlib.sha256("\n".join([RECIPE, root.name, *map(str, programs)]).encode())
    for file in [python / "pyproject.toml", *sorted((python / "src/flashpods").rglob("*"))]:
        if file.is_file() and "__pycache__" not in file.parts:
            digest.update(f"\n{file.relative_to(python)}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:16]
