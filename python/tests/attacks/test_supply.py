# ruff: noqa: E501 - the attacks are data
"""Attack 11: a dependency that is not the one that was locked."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from scoring import Score

from flashpods_dev import sbom
from flashpods_dev.machine import Machine


@pytest.mark.attack(11, "a package whose hash is not the locked one is not installed")
def test_hashes_hold(machine: Machine, scratch: Path, score: Score) -> None:
    """A local wheel stands for the index: no network is needed to see pip refuse."""
    wheel = scratch / "evil-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("evil.py", "")
        file.writestr(
            "evil-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n"
        )
        file.writestr(
            "evil-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        file.writestr("evil-1.0.dist-info/RECORD", "")
    script = (machine.checkout / "dev").read_text()
    (line,) = [x for x in script.splitlines() if "pip install" in x]
    options = [w for w in line.split() if w in {"--require-hashes", "--no-deps"}]
    for lock in (f"evil==1.0 --hash=sha256:{'0' * 64}\n", "evil==1.0\n"):
        with score.attempt():
            (scratch / "lock").write_text(lock)
            done = subprocess.run(
                [sys.executable, "-m", "pip", "install", *options, "--no-index", f"--find-links={scratch}",
                 "--dry-run", "--disable-pip-version-check", "-r", str(scratch / "lock")],
                capture_output=True, text=True, timeout=300, check=False,
            )  # fmt: skip
            assert done.returncode != 0
            assert re.search("hash", done.stderr, re.IGNORECASE), done.stderr


@pytest.mark.attack(11, "the bill of materials is whole, and the installed is the locked")
def test_bill(machine: Machine, scratch: Path, score: Score) -> None:
    lock = (machine.checkout / "python" / "requirements.lock").read_text()
    file = scratch / "bom.json"
    with score.attempt():
        count = sbom.write(machine.checkout, file)
        bill = json.loads(file.read_text())
        assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
        assert count == len(re.findall(r"^[A-Za-z0-9._-]+==", lock, re.MULTILINE))
        for component in bill["components"]:
            (reference,) = component["externalReferences"]
            assert reference["hashes"], component["name"]
        assert len({c["bom-ref"] for c in bill["components"]}) == count
    with score.attempt():
        assert sbom.environment_faults(lock) == []
        assert sbom.install_faults((machine.checkout / "dev").read_text()) == []
        assert sbom.install_faults("pip install x\n") != []
    score.note(f"{count} components; no vulnerability database can be reached from here")
