"""A CycloneDX bill of materials from ``requirements.lock``: what is installed, with its hashes.

The format is CycloneDX 1.5 (ECMA-424), JSON: https://cyclonedx.org/docs/1.5/json/. Licences come
from the installed distributions' own metadata. Nothing here asks the network, so no vulnerability
database is consulted: the file is what such a scan takes as its input.
"""

from __future__ import annotations

import json
import re
import sys
import uuid
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

ENTRY = re.compile(r"([A-Za-z0-9._-]+)==([^\s;\\]+)")
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
NAMESPACE = uuid.UUID("6f1c2c7e-6a0e-5b7e-9d1e-0d6f0c0d5a11")  # of our serial numbers, ours alone


def pinned(lock: str) -> dict[str, tuple[str, list[str]]]:
    """Return each package's version and sha256 digests, by its canonical name."""
    found: dict[str, tuple[str, list[str]]] = {}
    for entry in re.split(r"\n(?=[A-Za-z0-9])", lock):
        if head := ENTRY.match(entry):
            found[canonicalize_name(head[1])] = (head[2], HASH.findall(entry))
    return found


def licence(name: str) -> str | None:
    """Return what the installed distribution says of its licence; None if it says nothing."""
    try:
        fields = metadata(name)
    except PackageNotFoundError:
        return None
    short = next((fields[k] for k in ("License-Expression", "License") if k in fields), None)
    if short and len(short) <= 80 and "\n" not in short:
        return str(short)
    classes = [c for c in fields.get_all("Classifier") or [] if c.startswith("License :: ")]
    return classes[0].rpartition(" :: ")[2] if classes else None


def bill(lock: str, name: str, version: str) -> dict[str, Any]:
    """Return the bill; the same lock gives the same bill."""
    components = []
    for package, (release, digests) in sorted(pinned(lock).items()):
        url = f"pkg:pypi/{package}@{release}"
        component: dict[str, Any] = {
            "type": "library",
            "bom-ref": url,
            "name": package,
            "version": release,
            "purl": url,
            # A release has one digest for each of its files; any of them may be the installed one.
            "externalReferences": [
                {
                    "type": "distribution",
                    "url": f"https://pypi.org/project/{package}/{release}/",
                    "hashes": [{"alg": "SHA-256", "content": d} for d in digests],
                }
            ],
        }
        if text := licence(package):
            component["licenses"] = [{"license": {"name": text}}]
        components.append(component)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(NAMESPACE, lock)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": f"pkg:pypi/{name}@{version}",
                "name": name,
                "version": version,
            }
        },
        "components": components,
    }


def environment_faults(lock: str) -> list[str]:
    """Return what this environment has otherwise than the lock says, as lines for a person."""
    faults = []
    for package, (release, _) in sorted(pinned(lock).items()):
        try:
            have = metadata(package)["Version"]
        except PackageNotFoundError:
            continue  # of another platform or Python: its marker says so
        if have != release:
            faults.append(f"{package} is installed as {have}, locked as {release}: ./dev bootstrap")
    return faults


def install_faults(script: str) -> list[str]:
    """Return the lines of a shell script that install packages without enforcing their hashes."""
    return [
        f"dev, line {number}: pip install without --require-hashes and --no-deps"
        for number, line in enumerate(script.splitlines(), 1)
        if re.search(r"pip\S* install", line)
        and not line.lstrip().startswith("#")
        and not {"--require-hashes", "--no-deps"} <= set(line.split())
    ]


def write(checkout: Path, file: Path) -> int:
    """Write the bill of a checkout and return how many components it has."""
    import flashpods  # noqa: PLC0415 - only its version, and only here

    lock = (checkout / "python" / "requirements.lock").read_text()
    found = bill(lock, "flashpods", flashpods.__version__)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found, indent=2) + "\n")
    return len(found["components"])


if __name__ == "__main__":
    print(write(Path(sys.argv[1]), Path(sys.argv[2])))
