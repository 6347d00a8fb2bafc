"""Whether ``lab/rendered`` is what the modules of this commit render: by hashes, without Nix."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

RENDERED: Final = Path("lab", "rendered")
MANIFEST: Final = "manifest.json"
OPTIONS: Final = Path("docs", "options.md")
# What the outcome depends on: the modules, what they read, the lab's configurations, the rendering.
SOURCES: Final = (
    "modules/**/*",
    "pkgs/default.nix",
    "pkgs/*/package.nix",
    "examples/**/*.nix",
    "lab/*.nix",
    "checks/common/next*",
    "lib/*.nix",
    "python/src/flashpods_dev/nix/mapping.py",
    "python/src/flashpods_dev/nix/render.py",
)


def sources(checkout: Path) -> dict[str, str]:
    """Return path → sha256 of every source."""
    found = (path for pattern in SOURCES for path in checkout.glob(pattern) if path.is_file())
    return _hashes(checkout, found)


def outcome(checkout: Path) -> dict[str, str]:
    """Return path → sha256 of every rendered file, and of the option reference."""
    top = checkout / RENDERED
    found = (p for p in top.rglob("*") if p.is_file() and p != top / MANIFEST)
    return _hashes(top, found) | _hashes(checkout, iter([checkout / OPTIONS]))


def write(checkout: Path) -> None:
    """Write down both as they are now."""
    content = {"sources": sources(checkout), "rendered": outcome(checkout)}
    (checkout / RENDERED / MANIFEST).write_text(json.dumps(content, indent=2) + "\n")


def faults(checkout: Path) -> Iterator[str]:
    """Yield what has changed since, as lines for a person."""
    try:
        content = json.loads((checkout / RENDERED / MANIFEST).read_text())
    except (OSError, ValueError) as e:
        yield f"{RENDERED / MANIFEST}: {e}"
        return
    for name, now in (("sources", sources(checkout)), ("rendered", outcome(checkout))):
        then = content.get(name, {})
        for path in sorted(then.keys() | now.keys()):
            if then.get(path) == now.get(path):
                continue
            what = "is new" if path not in then else "is gone" if path not in now else "has changed"
            yield f"{path} {what} since lab/rendered was made: ./dev nix render"


def _hashes(top: Path, files: Iterator[Path]) -> dict[str, str]:
    return {
        path.relative_to(top).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(set(files))
    }
