"""``flashpods check-config FILE``: whether the host's programs would take these settings.

It reads the file and changes nothing, so that a build can run it: no path needs to be there, no
secret is read, no address is bound.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final

from flashpods.config import load
from flashpods.config_base import ConfigError

__all__ = ["EX_CONFIG", "EX_OK", "check"]

EX_OK: Final = 0
EX_CONFIG: Final = 78  # sysexits.h


def check(file: Path, *, as_json: bool) -> int:
    """Print ``ok``, or on standard error one line that says what is wrong; return the exit code.

    With ``as_json`` one object on standard output: ``{"ok": true, "file"}``, or
    ``{"ok": false, "file", "error": "invalid_config", "message"}``. The environment's overrides
    count, as they do at a program's start.

    Returns:
        0, or 78 (EX_CONFIG) as the host's programs do for the same file.
    """
    refusal = ""
    try:
        load(file)
    except ConfigError as e:
        refusal = str(e)
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
