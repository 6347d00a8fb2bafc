"""Which names jobs, uploads, projects, artifacts and images may have: pure rules, no look at files.

The patterns of ids are for ``match``. ``rsync_request`` and ``client.push`` can't import this
module and keep a copy; a test holds all copies to the same samples.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

MOST_NAME_BYTES: Final = 255  # NAME_MAX of every Linux file system
MOST_IMAGE: Final = 255  # characters

JOB_ID: Final = re.compile(r"[0-9a-f]{16}\Z")
UPLOAD_ID: Final = re.compile(r"upload_[A-Za-z0-9_-]{12,64}\Z")
PROJECT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")

# The grammar of an image reference, as github.com/distribution/reference has it (regexp.go), less
# digests other than sha256: [domain[:port]/]path[:tag][@digest].
_PART: Final = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_IMAGE: Final = re.compile(
    rf"(?:(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:]+\])(?::[0-9]{{1,5}})?/)?{_PART}(?:/{_PART})*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(?:@sha256:[0-9a-f]{64})?\Z"
)
# What Podman reads as something else than a repository if it stands before the first colon: its
# transports (containers-transports(5)), most of which are paths on the host, and an image's id.
# ``docker`` is not among them: Podman reads ``docker:27`` as an image, and ``docker://`` is none.
_NO_REPOSITORY: Final = frozenset(
    {
        *("atomic", "containers-storage", "dir", "docker-archive", "docker-daemon", "oci"),
        *("oci-archive", "ostree", "sha256", "sif", "tarball"),
    }
)
_IMAGE_ID: Final = re.compile(r"[0-9a-f]{64}\Z")

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


def valid_image(reference: str) -> bool:
    """Whether a job may ask for this image: a reference to a repository, which is all it can be."""
    if len(reference) > MOST_IMAGE or _IMAGE_ID.match(reference) or not _IMAGE.match(reference):
        return False
    head, colon, _ = reference.partition(":")
    return not colon or head not in _NO_REPOSITORY


def job_id(text: str) -> str:
    """Return the text if it is a job's id, and so can be a directory's name.

    Raises:
        ValueError: it can't; ids come from our own rows, so this is a defect, not bad input.
    """
    if not JOB_ID.match(text):
        raise ValueError(f"{text[:80]!r} is not a job id")
    return text
