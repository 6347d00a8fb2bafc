"""Which names jobs, uploads, projects and artifacts may have: pure rules, no file is looked at.

The patterns of ids are for ``match``. ``rsync_hook`` and ``client.push`` can't import this module
and keep a copy; a test holds all copies to the same samples.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

MOST_NAME_BYTES: Final = 255  # NAME_MAX of every Linux file system

JOB_ID: Final = re.compile(r"[0-9a-f]{16}\Z")
UPLOAD_ID: Final = re.compile(r"upload_[A-Za-z0-9_-]{12,64}\Z")
PROJECT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")

# Cc: control; Cs: a lone surrogate, that is a byte that is not UTF-8; Zl, Zp: line separators.
_REFUSED_CATEGORIES: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})


def printable_name(name: str) -> bool:
    """Whether a name is valid UTF-8 of 1 to 255 bytes without control or line characters."""
    if not name or any(unicodedata.category(c) in _REFUSED_CATEGORIES for c in name):
        return False
    return len(name.encode()) <= MOST_NAME_BYTES


def valid_artifact_name(name: str) -> bool:
    """Whether an artifact may have this name (contract section 4).

    A file name: 1 to 255 bytes of valid UTF-8, no slash, backslash or ``..`` anywhere in it, no
    NUL or other control character, no white space at either end. Dot files are allowed, but
    ``.`` is not the name of a file.
    """
    if name == "." or ".." in name or "/" in name or "\\" in name or name != name.strip():
        return False
    return printable_name(name)


def job_id(text: str) -> str:
    """Return the text if it is a job's id, and so can be a directory's name.

    Raises:
        ValueError: it can't; ids come from our own rows, so this is a defect, not bad input.
    """
    if not JOB_ID.match(text):
        raise ValueError(f"{text[:80]!r} is not a job id")
    return text
