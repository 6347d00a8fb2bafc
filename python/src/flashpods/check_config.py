"""``flashpods check-config FILE``: whether the host's programs would take these settings.

It reads the file and changes nothing, so that a build can run it: no path needs to be there, no
secret is read, no address is bound.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Final

from pydantic_settings import SettingsError

from flashpods.config import ConfigError, Settings, load

__all__ = ["EX_CONFIG", "EX_OK", "check", "contradictions"]

EX_OK: Final = 0
EX_CONFIG: Final = 78  # sysexits.h

# The smaller, the larger.
_ORDERS: Final = (
    ("output.log_bytes", "output.logs_total_bytes"),
    ("output.artifact_file_bytes", "output.artifact_job_bytes"),
    ("uploads.max_bytes", "uploads.total_bytes"),
)


def check(file: Path, *, as_json: bool) -> int:
    """Print ``ok``, or on standard error one line that says what is wrong; return the exit code.

    With ``as_json`` one object on standard output: ``{"ok": true, "file"}``, or
    ``{"ok": false, "file", "error": "invalid_config", "message"}``. The environment's overrides
    count, as they do at a program's start.

    Returns:
        0, or 78 (EX_CONFIG) as the host's programs do for the same file.
    """
    try:
        found = "; ".join(contradictions(load(file)))
        refusal = f"settings file {file}: {found}" if found else ""
    except (ConfigError, SettingsError) as e:
        refusal = str(e)
    except RecursionError:
        refusal = f"settings file {file}: nested too deeply"
    refusal = " ".join(refusal.split())
    if as_json:
        answer: dict[str, object] = {"ok": not refusal, "file": str(file)}
        if refusal:
            answer |= {"error": "invalid_config", "message": refusal}
        sys.stdout.write(json.dumps(answer) + "\n")
    elif refusal:
        sys.stderr.write(f"flashpods check-config: {refusal}\n")
    else:
        sys.stdout.write("ok\n")
    return EX_CONFIG if refusal else EX_OK


def contradictions(settings: Settings) -> Iterator[str]:
    """Yield what each key by itself allows and all together do not."""
    for small, large in _ORDERS:
        least, most = _value(settings, small), _value(settings, large)
        if least > most:
            yield f"{small} is {least}, more than {large} {most}"
    paths = {f"paths.{key}": Path(value) for key, value in settings.paths}
    for key, path in paths.items():
        if not path.is_absolute() or ".." in path.parts:
            yield f"{key} is {path}: must be absolute, without '..'"
    # What cleans one tree would take the other's entries for leftovers.
    trees = {key: path for key, path in paths.items() if key != "paths.database"}
    for (outer_key, outer), (key, path) in permutations(trees.items(), 2):
        if outer in path.parents or (outer == path and outer_key < key):
            yield f"{key} {path} is in {outer_key} {outer}: give each its own directory"
    for target, source in settings.podman.mounts.items():
        if not (target.startswith("/") and source.startswith("/")):
            yield f"podman.mounts {target!r}: {source!r}: both must be absolute paths"
    if not settings.uploads.rsync_url.startswith("rsync://"):
        yield f"uploads.rsync_url is {settings.uploads.rsync_url!r}: must begin with rsync://"


def _value(settings: Settings, key: str) -> int:
    section, _, name = key.partition(".")
    value: int = getattr(getattr(settings, section), name)
    return value
