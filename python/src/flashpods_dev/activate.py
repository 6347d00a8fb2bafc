"""Hand an inherited listening socket over as systemd does (sd_listen_fds(3)), then exec.

``python -m flashpods_dev.activate COMMAND [ARGUMENT...]``; the socket is the one descriptor that
was inherited beside the standard three.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from pathlib import Path

FIRST = 3  # SD_LISTEN_FDS_START


def inherited() -> int:
    """Return the number of the descriptor that was passed on."""
    for number in sorted(int(entry.name) for entry in Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(OSError):  # the listing itself had one
            if number >= FIRST and stat.S_ISSOCK(os.fstat(number).st_mode):
                return number
    raise SystemExit("flashpods_dev.activate: no socket was passed on")


def main() -> None:
    """Become the command; this process keeps its pid, so LISTEN_PID is right."""
    descriptor = inherited()
    os.dup2(descriptor, FIRST, inheritable=True)
    if descriptor != FIRST:
        os.close(descriptor)
    variables = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
    os.execvpe(sys.argv[1], sys.argv[1:], {**os.environ, **variables})


if __name__ == "__main__":
    main()
