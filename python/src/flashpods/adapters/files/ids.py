"""Which names in our directories are ours: all others are neither listed nor touched."""

from __future__ import annotations

import re
from typing import Final

from flashpods.jobs.names import UPLOAD_ID

_JOB_ID: Final = re.compile(r"[0-9a-f]{16}\Z")


def is_job_id(name: str) -> bool:
    """Whether a name found on disk can be a job's: 16 hexadecimal digits."""
    return _JOB_ID.match(name) is not None


def is_upload_id(name: str) -> bool:
    """Whether a name found on disk can be an upload's."""
    return UPLOAD_ID.match(name) is not None
