"""The wheels that pkgs/python-mcp takes are those of the lock file."""

from __future__ import annotations

import base64
import re
from pathlib import Path

from flashpods_dev.sbom import pinned

ROOT = Path(__file__).parents[3]


def test_versions_and_digests_are_the_lock_files() -> None:
    text = (ROOT / "pkgs" / "python-mcp" / "default.nix").read_text()
    locked = pinned((ROOT / "python" / "requirements.lock").read_text())
    wheels = re.findall(r'wheel "([\w-]+)" "([\d.]+)" "sha256-([\w+/=]+)"', text)
    assert {name for name, _, _ in wheels} == {"httpcore2", "httpx2", "mcp", "mcp-types"}
    for name, version, digest in wheels:
        assert locked[name][0] == version
        assert base64.b64decode(digest).hex() in locked[name][1], name
