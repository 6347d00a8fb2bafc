"""What a directory is called on the host, so that its next push sends only what changed."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

__all__ = ["default_project"]


def default_project(directory: Path) -> str:
    """Return a name for the tree: its own, and a digest of where it is on this machine."""
    where = str(directory.absolute())
    name = re.sub(r"[^A-Za-z0-9]+", "-", directory.absolute().name).strip("-")[:40] or "tree"
    return f"{name}-{hashlib.sha256(where.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"
